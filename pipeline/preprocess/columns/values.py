"""What reading a feature gives: its values, and the rows with a value that cannot be used."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.errors import DataError
from pipeline.preprocess.columns.labels import show_value
from pipeline.preprocess.columns.text import Codes
from pipeline.preprocess.raw_files.sources import file_of, locate


class SparseValues(NamedTuple):
    """The values of a feature, one row after the other; `lengths` per row, or None where each row has one.

    `weights` are float32, one per value, of a weighted feature. `is_null` and `is_cut` (bool) are rows whose column was
    null and whose list was cut; `counts` are further counts per row (int64), by what is counted.
    """

    codes: Codes
    lengths: np.ndarray | None
    weights: np.ndarray | None
    is_null: np.ndarray
    is_cut: np.ndarray
    counts: dict[str, np.ndarray]


class Fault(NamedTuple):
    """Rows (bool) with a value that cannot be used, and why; `value` is the first such value if not the whole one."""

    is_wrong: np.ndarray
    feature: str
    rule: str
    column: str
    fix: str
    value: str | None = None

    @property
    def reason(self) -> str:
        return f"feature {self.feature!r} {self.rule}"


def refuse(faults: Iterable[Fault], table: pa.Table, source: str, first_row: int) -> None:
    """Raises a DataError that names the first wrong row."""
    broken = [fault for fault in faults if fault.is_wrong.any()]
    if not broken:
        return
    fault = min(broken, key=lambda fault: int(np.argmax(fault.is_wrong)))
    row = int(np.argmax(fault.is_wrong))
    if fault.value is None:
        shown = show_value(table, fault.column, row, source, first_row)
    else:
        shown = f"{fault.value} in {locate(table, fault.column, row, source, first_row)}"
    raise DataError(f"feature {fault.feature!r}: {shown} {fault.rule}", fault.fix)


def describe(table: pa.Table, column: str, feature: str, source: str) -> str:
    """A column that a feature is read from, for messages."""
    return f"feature {feature!r}: column {column!r} of {file_of(table, column, source)}"
