"""Reading the prediction table: pieces of its parts, or whole units, by ranges of their hashes, from all its parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ArtifactError
from pipeline.evaluate.metrics.rows import FloatArray, IntArray
from pipeline.evaluate.prediction_table import REQUEST_COLUMN, SLICE_PREFIX, UNIT_COLUMN, USER_COLUMN, map_part
from pipeline.executor import Executor

# Ranges begin and end at multiples of 2^48.
STEP_BITS = 48
NUM_STEPS = 1 << 16


class PartSlice(NamedTuple):
    """Neighbouring rows of a part."""

    part: Path
    first: int
    num_rows: int


Piece = Sequence[PartSlice]


@dataclass(frozen=True)
class HashRange:
    """Units whose hashes are at least `low` and at most `high`."""

    low: int
    high: int


@dataclass(frozen=True)
class Division:
    """The rows of a table, divided in two ways: into pieces and into ranges, which hold whole units."""

    num_rows: int
    pieces: Sequence[Piece]
    ranges: list[HashRange]

    @classmethod
    def plan(cls, parts: Sequence[Path], executor: Executor, max_rows: int) -> "Division":
        """Pieces of at most so many rows, at least one, and ranges of as many, if no step of hashes alone has more."""
        steps = np.zeros(NUM_STEPS, np.int64)
        pieces: list[list[PartSlice]] = [[]]
        room = max_rows
        for part, counts in zip(parts, executor.map(_count_steps, parts), strict=True):
            steps += counts
            num_rows = int(counts.sum())
            for first in range(0, max(num_rows, 1), max_rows):
                size = min(max_rows, num_rows - first)
                if size > room:
                    pieces.append([])
                    room = max_rows
                pieces[-1].append(PartSlice(part, first, size))
                room -= size
        limits, size = [0], 0
        for step, num in enumerate(steps.tolist()):
            if size and size + num > max_rows:
                limits.append(step << STEP_BITS)
                size = 0
            size += num
        limits.append(NUM_STEPS << STEP_BITS)
        return cls(int(steps.sum()), pieces, [HashRange(low, end - 1) for low, end in pairwise(limits)])


def _count_steps(part: Path) -> IntArray:
    hashes = np.asarray(map_part(part).column(UNIT_COLUMN))
    return np.bincount((hashes >> np.uint64(STEP_BITS)).astype(np.int64), minlength=NUM_STEPS)


def read_layout(parts: Sequence[Path], dimensions: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The names of the columns, and the values of each dimension in their order.

    Raises:
        ArtifactError: two parts differ in them.
    """
    layouts = []
    for part in parts:
        batch = map_part(part)
        values = {name: batch.column(SLICE_PREFIX + name).dictionary.to_pylist() for name in dimensions}
        layouts.append((batch.schema.names, values))
        if layouts[-1] != layouts[0]:
            raise ArtifactError(f"{part} has other columns or slices than {parts[0]}", "remove the folder of both")
    return layouts[0]


class Frame:
    """Rows of some parts in the order of their units: N rows of U units."""

    def __init__(self, batches: Sequence[pa.RecordBatch]) -> None:
        self.table = pa.Table.from_batches(batches)
        hashes = self.table[UNIT_COLUMN].to_numpy()
        self._order = np.argsort(hashes, kind="stable")
        hashes = hashes[self._order]
        begins = np.ones(len(hashes), bool)
        begins[1:] = hashes[1:] != hashes[:-1]
        self.unit: IntArray = np.cumsum(begins) - 1
        self.unit_hash: NDArray[np.uint64] = hashes[begins]

    @classmethod
    def of_piece(cls, piece: Piece) -> Self:
        return cls([map_part(one.part).slice(one.first, one.num_rows) for one in piece])

    @classmethod
    def of_range(cls, parts: Sequence[Path], one: HashRange) -> Self:
        return cls([_within(map_part(part), one) for part in parts])

    def __len__(self) -> int:
        return len(self.unit)

    def numbers(self, column: str) -> FloatArray:
        """A column of numbers, [N] in float64, NaN where there is none."""
        values: FloatArray = self.table[column].to_numpy()[self._order]
        return values

    @cached_property
    def user(self) -> IntArray | None:
        """The place of each row's unit, which is its user, [N]; -1 where a row has none."""
        if USER_COLUMN not in self.table.column_names:
            return None
        is_known = self.table[USER_COLUMN].is_valid().to_numpy()[self._order]
        return np.where(is_known, self.unit, -1)

    @cached_property
    def request(self) -> IntArray | None:
        """A place for each request of each unit, in the order of the units, [N]; -1 where a row has none."""
        if REQUEST_COLUMN not in self.table.column_names:
            return None
        codes = pc.dictionary_encode(self.table[REQUEST_COLUMN].combine_chunks()).indices.fill_null(-1)
        code = codes.to_numpy().astype(np.int64)[self._order]
        place = np.unique(self.unit * (code.max(initial=0) + 1) + code, return_inverse=True)[1]
        return np.where(code >= 0, place, -1)

    def slice_places(self, dimension: str, first: int) -> IntArray:
        """The place of each row's value, [N], where that of the dimension's first value is `first`; -1 for none."""
        chunks = self.table[SLICE_PREFIX + dimension].chunks
        codes = np.concatenate([chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False) for chunk in chunks])
        places: IntArray = np.where(codes >= 0, codes.astype(np.int64) + first, -1)[self._order]
        return places


def _within(batch: pa.RecordBatch, one: HashRange) -> pa.RecordBatch:
    hashes = np.asarray(batch.column(UNIT_COLUMN))
    first = int(np.searchsorted(hashes, np.uint64(one.low), side="left"))
    return batch.slice(first, int(np.searchsorted(hashes, np.uint64(one.high), side="right")) - first)
