"""Features read from a few raw rows, and their values as Python lists."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from pipeline.feature_kinds import Feature
from pipeline.preprocess.columns.values import SparseValues
from pipeline.preprocess.features.kinds import read_sparse

MOMENT = datetime(2024, 2, 29, 23, 30, tzinfo=UTC)
ADAPTER: TypeAdapter[Any] = TypeAdapter(Feature)


def make_feature(kind: str, **settings: Any) -> Any:
    return ADAPTER.validate_python({"name": "x", "kind": kind, **settings})


def read_values(feature: Any, **columns: Any) -> SparseValues:
    return read_sparse(pa.table(columns), feature, "log.csv", 100, "now" if "now" in columns else None)


def texts_of(values: SparseValues) -> list[Any]:
    """The text of each value, in a list per row unless each row has one."""
    flat = [None if code < 0 else values.codes.texts[int(code)].as_py() for code in values.codes.codes]
    if values.lengths is None:
        return flat
    ends = np.cumsum(values.lengths)
    return [flat[end - length : end] for end, length in zip(ends, values.lengths, strict=True)]


def weights_of(values: SparseValues) -> list[list[float]]:
    assert values.weights is not None
    assert values.lengths is not None
    assert values.weights.dtype == np.float32
    return [part.tolist() for part in np.split(values.weights, np.cumsum(values.lengths)[:-1])]
