"""Which rows are for training, validation and test: by time, by a stable hash, by a column, or by their order."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ConfigError, DataError
from pipeline.preprocess.columns.hashing import hash64
from pipeline.preprocess.columns.text import as_codes, as_text, is_text
from pipeline.preprocess.config import ColumnSplit, HashSplit, OrderSplit, SplitConfig, TimeSplit
from pipeline.preprocess.raw_files.sources import locate

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ISO_TIME = re.compile(r"\d{4}-\d{2}-\d{2}([ T].*)?")


class TimeSpan(NamedTuple):
    """The first and last value of the split column: both microseconds since 1970 (int), numbers (float) or texts."""

    first: Any
    last: Any

    def __str__(self) -> str:
        return " to ".join(map(_show_end, self))

    def merge(self, other: "TimeSpan") -> "TimeSpan":
        return TimeSpan(min(self.first, other.first), max(self.last, other.last))


def check_split(split: SplitConfig) -> None:
    """Raises a ConfigError when the boundaries of a time split are of different kinds or in the wrong order."""
    if not isinstance(split, TimeSplit):
        return
    first, second = _boundary(split.validation_from), _boundary(split.test_from)
    if type(first) is not type(second):
        raise ConfigError(
            f"preprocess.split: validation_from {split.validation_from!r} and test_from {split.test_from!r} "
            "are not of one kind",
            "give two times, two numbers or two texts",
        )
    if not first < second:
        raise ConfigError(
            f"preprocess.split: validation_from {split.validation_from} is not before test_from {split.test_from}",
            "set validation_from to the earlier of the two",
        )


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
    column = table.column(split.column)
    is_null = np.asarray(pc.is_null(column, nan_is_null=True))
    if is_null.any():
        place = locate(table, split.column, int(np.argmax(is_null)), source, first_in_file)
        raise DataError(
            f"the split column {split.column!r} is null in {place}", "remove such rows, or split by another column"
        )
    if isinstance(split, HashSplit):
        return _by_hash(split, column)
    if isinstance(split, ColumnSplit):
        return _by_column(split, column)
    boundaries = [_boundary(split.validation_from), _boundary(split.test_from)]
    values = _comparable(column, boundaries[0], split.column)
    splits = np.zeros(table.num_rows, np.int8)
    for boundary in boundaries:
        splits += np.asarray(pc.greater_equal(values, boundary)).astype(np.int8)
    return splits


def time_span(table: pa.Table, split: SplitConfig) -> TimeSpan | None:
    """The range of a time split's column; None for another split, or no rows."""
    if not isinstance(split, TimeSplit) or not table.num_rows:
        return None
    ends = pc.min_max(_comparable(table.column(split.column), _boundary(split.validation_from), split.column))
    return TimeSpan(ends["min"].as_py(), ends["max"].as_py())


def _by_order(split: OrderSplit, num_rows: int, first_row: int, total_rows: int) -> np.ndarray:
    test_from = total_rows - round(total_rows * split.test_fraction)
    validation_from = test_from - round(total_rows * split.validation_fraction)
    rows = np.arange(first_row, first_row + num_rows)
    return (rows >= validation_from).astype(np.int8) + (rows >= test_from).astype(np.int8)


def _by_hash(split: HashSplit, column: pa.ChunkedArray) -> np.ndarray:
    codes, texts = as_codes(column, f"the split column {split.column!r}")
    places = (hash64(texts, split.seed) / 2.0**64)[codes]
    is_test = places < split.test_fraction
    is_validation = ~is_test & (places < split.test_fraction + split.validation_fraction)
    return np.where(is_test, 2, is_validation).astype(np.int8)


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


def _boundary(value: float | str) -> Any:
    """A boundary as microseconds since 1970 (int), a number (float) or a text; a text that is an ISO time is a time."""
    if not isinstance(value, str) or not ISO_TIME.fullmatch(value):
        return value
    try:
        time = datetime.fromisoformat(value)
    except ValueError as error:
        raise ConfigError(f"preprocess.split: {value!r} is not a time: {error}", "correct the boundary") from error
    # A time without a zone is UTC, in the column as in the boundary.
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return (aware - EPOCH) // timedelta(microseconds=1)


def _show_end(end: int | float | str) -> str:
    if isinstance(end, int):
        return str((EPOCH + timedelta(microseconds=end)).replace(tzinfo=None))
    return f"{end:.0f}" if isinstance(end, float) and end.is_integer() else str(end)


def _comparable(column: pa.ChunkedArray, boundary: int | float | str, name: str) -> pa.ChunkedArray:
    """The column in the boundary's own kind: int64 microseconds, float64 or text."""
    is_temporal, is_texts = pa.types.is_temporal(column.type), is_text(column.type)
    try:
        if isinstance(boundary, int) and (is_temporal or is_texts):
            return _microseconds(column)
        if isinstance(boundary, float) and not is_temporal:
            return column.cast(pa.float64(), safe=False)
        if isinstance(boundary, str) and is_texts:
            return column
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    shown = f", which holds {column[0].as_py()!r}" if len(column) else ""
    raise ConfigError(
        f"preprocess.split: the boundaries cannot be compared with column {name!r} of type {column.type}{shown}",
        "give validation_from and test_from as the column has them: a time, a number in its unit, or a text",
    )


def _microseconds(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if is_text(column.type):
        try:
            column = column.cast(pa.timestamp("us"))
        except pa.ArrowInvalid:  # the texts have zones
            column = column.cast(pa.timestamp("us", "UTC"))
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("us"))
    return column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
