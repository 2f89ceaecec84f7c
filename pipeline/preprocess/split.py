"""Which rows are for training, validation and test: by time, by a stable hash, by a column, or by their order."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import DataError
from pipeline.preprocess.columns.boundaries import comparable, parse_boundaries, parse_boundary, show_boundary
from pipeline.preprocess.columns.hashing import hash64
from pipeline.preprocess.columns.text import as_codes, as_text
from pipeline.preprocess.config import ColumnSplit, HashSplit, OrderSplit, SplitConfig, TimeHashSplit, TimeSplit
from pipeline.preprocess.raw_files.sources import locate

SECTION = "preprocess.split"


class TimeSpan(NamedTuple):
    """The first and last value of the split column: both microseconds since 1970 (int), numbers (float) or texts."""

    first: Any
    last: Any

    def __str__(self) -> str:
        return " to ".join(map(show_boundary, self))

    def merge(self, other: "TimeSpan") -> "TimeSpan":
        return TimeSpan(min(self.first, other.first), max(self.last, other.last))


def check_split(split: SplitConfig) -> None:
    """Raises a ConfigError when the boundaries of a time split are of different kinds or in the wrong order."""
    if isinstance(split, TimeSplit):
        parse_boundaries(("validation_from", split.validation_from), ("test_from", split.test_from), SECTION)


def deciding_columns(split: SplitConfig) -> tuple[str, ...]:
    """The columns that say in which split a row is; none of them may be null."""
    if isinstance(split, OrderSplit):
        return ()
    return (split.column, split.key) if isinstance(split, TimeHashSplit) else (split.column,)


def assign_splits(
    table: pa.Table,
    split: SplitConfig,
    first_row: int,
    total_rows: int,
    source: str = "the log",
    first_in_file: int = 0,
) -> np.ndarray:
    """The split of each row, int8: a place in `SPLITS`.

    `first_row` is the place of the table's first row among all `total_rows` rows of the log; only an order split uses
    the two. `source` and `first_in_file` say in messages where the first row of `table` lies.

    Raises:
        ConfigError: the boundaries cannot be compared with the time column.
        DataError: the column that decides is null in a row.
    """
    if isinstance(split, OrderSplit):
        return _by_order(split, table.num_rows, first_row, total_rows)
    for name in deciding_columns(split):
        is_null = np.asarray(pc.is_null(table.column(name), nan_is_null=True))
        if is_null.any():
            place = locate(table, name, int(np.argmax(is_null)), source, first_in_file)
            raise DataError(
                f"the split column {name!r} is null in {place}", "remove such rows, or split by another column"
            )
    column = table.column(split.column)
    if isinstance(split, HashSplit):
        return _by_hash(split, column)
    if isinstance(split, ColumnSplit):
        return _by_column(split, column)
    if isinstance(split, TimeHashSplit):
        is_test = _is_from(split.test_from, column, split.column)
        is_validation = ~is_test & (_places(table.column(split.key), split.key, split.seed) < split.validation_fraction)
        return np.where(is_test, 2, is_validation).astype(np.int8)
    splits = np.zeros(table.num_rows, np.int8)
    for boundary in (split.validation_from, split.test_from):
        splits += _is_from(boundary, column, split.column)
    return splits


def time_span(table: pa.Table, split: SplitConfig) -> TimeSpan | None:
    """The range of a time split's column; None for another split, or no rows."""
    if not isinstance(split, TimeSplit | TimeHashSplit) or not table.num_rows:
        return None
    boundary = parse_boundary(split.test_from, SECTION)
    ends = pc.min_max(comparable(table.column(split.column), boundary, split.column, SECTION))
    return TimeSpan(ends["min"].as_py(), ends["max"].as_py())


def _is_from(boundary: float | str, column: pa.ChunkedArray, name: str) -> np.ndarray:
    parsed = parse_boundary(boundary, SECTION)
    is_from: np.ndarray = np.asarray(pc.greater_equal(comparable(column, parsed, name, SECTION), parsed))
    return is_from


def _by_order(split: OrderSplit, num_rows: int, first_row: int, total_rows: int) -> np.ndarray:
    test_from = total_rows - round(total_rows * split.test_fraction)
    validation_from = test_from - round(total_rows * split.validation_fraction)
    rows = np.arange(first_row, first_row + num_rows)
    return (rows >= validation_from).astype(np.int8) + (rows >= test_from).astype(np.int8)


def _by_hash(split: HashSplit, column: pa.ChunkedArray) -> np.ndarray:
    places = _places(column, split.column, split.seed)
    is_test = places < split.test_fraction
    is_validation = ~is_test & (places < split.test_fraction + split.validation_fraction)
    return np.where(is_test, 2, is_validation).astype(np.int8)


def _places(column: pa.ChunkedArray, name: str, seed: int) -> np.ndarray:
    """From 0 to 1 for each row, by its value."""
    codes, texts = as_codes(column, f"the split column {name!r}")
    places: np.ndarray = (hash64(texts, seed) / 2.0**64)[codes]
    return places


def _by_column(split: ColumnSplit, column: pa.ChunkedArray) -> np.ndarray:
    what = f"the split column {split.column!r}"
    codes, texts = as_codes(column, what)
    place_of = {
        text: place for place, values in ((1, split.validation), (2, split.test)) for text in _texts(values, what)
    }
    places = np.array([place_of.get(text, 0) for text in texts.to_pylist()], np.int8)
    found: np.ndarray = places[codes]
    return found


def _texts(values: Sequence[str | int | bool], what: str) -> list[str]:
    texts: list[str] = as_text(pa.array([str(value) for value in values]), what).to_pylist()
    return texts
