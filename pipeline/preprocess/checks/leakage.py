"""Leakage between the splits: values that stand in rows of several, of columns that the configuration keeps apart."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.errors import DataError
from pipeline.executor import Executor
from pipeline.preprocess.features.distinct import Range, plan_ranges, read_range
from pipeline.preprocess.profiles.survey import Survey
from pipeline.preprocess.stage import StagedPart
from pipeline.shards.manifest import SPLITS


class Shared(NamedTuple):
    """Of a range of values: how many there are, how many stand in several splits, and the first such one with these."""

    num_values: int
    num_shared: int
    first: tuple[str, list[str]] | None


def check_disjoint(columns: Sequence[str], survey: Survey, staging: Path, num_parts: int, executor: Executor) -> None:
    """Raises a DataError when a value of one of the columns stands in rows of several splits."""
    find = partial(_find_shared, staging, num_parts, columns)
    ranges = plan_ranges({column: survey.num_keys[column] for column in columns})
    found: dict[str, list[Shared]] = {column: [] for column in columns}
    for one, shared in zip(ranges, executor.map(find, ranges), strict=True):
        found[one.table].append(shared)
    for column, parts in found.items():
        examples = [part.first for part in parts if part.first]
        if examples:
            value, splits = examples[0]
            num_shared, num_values = sum(part.num_shared for part in parts), sum(part.num_values for part in parts)
            raise DataError(
                f"{column} {value!r} stands in rows of the splits {' and '.join(splits)}; "
                f"{num_shared:,} of its {num_values:,} values stand in several",
                f"split by the hash of {column!r}, or take it out of preprocess.split.disjoint",
            )


def _find_shared(staging: Path, num_parts: int, columns: Sequence[str], one: Range) -> Shared:
    paths = [StagedPart(staging, number).keys_path for number in range(num_parts)]
    rows = pa.concat_tables([read_range(path, columns.index(one.table), one) for path in paths])
    values = rows.group_by(["value", "hash"], use_threads=False).aggregate([(split, "max") for split in SPLITS])
    is_in = np.stack([np.asarray(values.column(f"{split}_max")) for split in SPLITS])
    shared = values.filter(pa.array(is_in.sum(0) > 1)).sort_by([("hash", "ascending"), ("value", "ascending")])
    if not len(shared):
        return Shared(len(values), 0, None)
    first = shared.slice(0, 1).to_pylist()[0]
    return Shared(len(values), len(shared), (first["value"], [split for split in SPLITS if first[f"{split}_max"]]))
