"""A user or item table as a join sees it: the columns that it brings in, and the lookup of a log's rows in it.

A lookup is a binary search among hashes, then a comparison of keys, then, in a table with `valid_from`, a binary search
among the versions of a key. It opens the ranges that its keys fall into, one after the other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.preprocess.columns.hashing import hash64
from pipeline.preprocess.columns.text import Codes
from pipeline.preprocess.columns.times import Times
from pipeline.preprocess.config import TableConfig
from pipeline.preprocess.joins.rows import HASH, KEY, VALID_FROM, VALUE_PREFIX, range_lows
from pipeline.preprocess.raw_files.sources import JOINED_FROM

# In place of the place of a row: why there is none.
NO_KEY, BEFORE_FIRST = -1, -2


class Ranges(Protocol):
    """The merged rows of each range, in the order of their hashes."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> pa.RecordBatch: ...


class Found(NamedTuple):
    """The columns of a table for each row of a log, null in the rows (bool) that are missing in it.

    `is_early` are those of the missing ones whose key has versions, all of them later.
    """

    columns: pa.Table
    is_missing: np.ndarray
    is_early: np.ndarray


@dataclass(frozen=True)
class JoinTable:
    """A table to join, and the columns that it brings in.

    If it has versions, `time_column` is the log's column with the time of a row; without one, rows take the latest.
    """

    config: TableConfig
    columns: tuple[str, ...]
    time_column: str | None
    ranges: Ranges

    @property
    def path(self) -> str:
        return self.config.path

    def look_up(self, keys: Codes, times: Times | None) -> Found:
        """The values for rows with these keys, and these times if there is a time column.

        Nothing is found for a null key, nor for a null or wrong time.
        """
        hashes, lows = hash64(keys.texts), range_lows(len(self.ranges))
        order = np.argsort(hashes)
        edges = np.append(np.searchsorted(hashes[order], lows), len(order))
        # A null key goes to the first range, where it finds nothing.
        range_of_row = np.append(np.searchsorted(lows, hashes, "right") - 1, 0)[keys.codes]
        row_order = np.argsort(range_of_row, kind="stable")
        row_edges = np.searchsorted(range_of_row[row_order], np.arange(len(lows) + 1))
        low, high = np.zeros((2, len(order) + 1), np.int64)
        is_missing, is_early = np.ones((2, len(row_order)), bool)
        pieces = []
        for number in np.flatnonzero(np.diff(row_edges)).tolist() or [0]:
            batch = self.ranges[number]
            own = order[edges[number] : edges[number + 1]]
            rows = row_order[row_edges[number] : row_edges[number + 1]]
            low[own], high[own] = _find_keys(batch, hashes[own], keys.texts.take(pa.array(own)))
            codes = keys.codes[rows]
            own_times = None if times is None else Times(*(values[rows] for values in times))
            places = _choose_versions(batch, low[codes], high[codes], own_times)
            is_missing[rows], is_early[rows] = places < 0, places == BEFORE_FIRST
            pieces.append(self._values(batch).take(pa.array(places, mask=places < 0)))
        columns = pa.concat_tables(pieces)
        if len(pieces) > 1:
            columns = columns.combine_chunks().take(pa.array(np.argsort(row_order)))
        return Found(columns, is_missing, is_early)

    def _values(self, batch: pa.RecordBatch) -> pa.Table:
        arrays = [batch.column(VALUE_PREFIX + name) for name in self.columns]
        fields = [
            pa.field(name, array.type, metadata={JOINED_FROM: self.path})
            for name, array in zip(self.columns, arrays, strict=True)
        ]
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _find_keys(batch: pa.RecordBatch, hashes: np.ndarray, texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """The first place of each key and the one after its last, equal where it has none; `hashes` are in order."""
    known, keys = batch.column(HASH).to_numpy(), batch.column(KEY)
    low, high = np.searchsorted(known, hashes, "left"), np.searchsorted(known, hashes, "right")
    found = np.flatnonzero(low < high)
    wanted = texts.take(pa.array(found))
    is_same = [
        np.asarray(pc.equal(keys.take(pa.array(places)), wanted), bool) for places in (low[found], high[found] - 1)
    ]
    # Where another key has the same hash, the keys with that hash are in order.
    is_mixed = ~(is_same[0] & is_same[1])
    mixed, wanted = found[is_mixed], wanted.filter(pa.array(is_mixed))

    def is_before(
        compare: Callable[[pa.Array, pa.Array], pa.Array], rows: np.ndarray, places: np.ndarray
    ) -> np.ndarray:
        return np.asarray(compare(keys.take(pa.array(places)), wanted.take(pa.array(rows))), bool)

    low[mixed] = _bisect(low[mixed], high[mixed], partial(is_before, pc.less))
    high[mixed] = _bisect(low[mixed], high[mixed], partial(is_before, pc.less_equal))
    return low, high


def _choose_versions(batch: pa.RecordBatch, low: np.ndarray, high: np.ndarray, times: Times | None) -> np.ndarray:
    """The place of the version that each row takes of those from `low` to before `high`, or why there is none."""
    if times is None:
        return np.where(low < high, high - 1, NO_KEY)
    valid_from = batch.column(VALID_FROM).to_numpy()
    low = np.where(times.is_null | times.is_wrong, high, low)
    after = _bisect(low, high, lambda rows, places: valid_from[places] <= times.microseconds[rows])
    return np.where(after > low, after - 1, np.where(low < high, BEFORE_FIRST, NO_KEY))


def _bisect(low: np.ndarray, high: np.ndarray, is_before: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """For each row the first place from `low` on that is not before what it wants, `high` if there is none."""
    low, high = low.copy(), high.copy()
    while len(rows := np.flatnonzero(low < high)):
        middle = (low[rows] + high[rows]) // 2
        before = is_before(rows, middle)
        low[rows[before]] = middle[before] + 1
        high[rows[~before]] = middle[~before]
    return low
