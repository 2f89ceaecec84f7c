"""Which row is trained when: a pure function of (rows per shard, seed, epoch), the same on any number of ranks.

Blocks of neighbouring rows are permuted; the permuted rows are dealt into lanes that differ by at most one row; each
lane shuffles its rows inside a window of blocks. Global batch g takes the next rows of every lane, and a rank owns
whole lanes.
"""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SampleOrder:
    """The order of all rows of a split.

    `shuffle=False` keeps the rows of each lane in file order, as evaluation does.
    """

    shard_rows: tuple[int, ...]
    num_lanes: int
    rows_per_lane: int
    block_rows: int
    window_blocks: int
    seed: int
    shuffle: bool = True

    @property
    def num_rows(self) -> int:
        return sum(self.shard_rows)

    @property
    def num_steps(self) -> int:
        """Global batches in one epoch; the last one may be short."""
        longest_lane = -(-self.num_rows // self.num_lanes)
        return -(-longest_lane // self.rows_per_lane)

    @property
    def window_rows(self) -> int:
        return self.block_rows * self.window_blocks


@dataclass(frozen=True)
class Piece:
    """Neighbouring rows of one shard."""

    shard: int
    first_row: int
    rows: int


class EpochBlocks:
    """All blocks of all shards, in the order of one epoch: two numbers for each of B blocks, of S shards."""

    def __init__(self, order: SampleOrder, epoch: int) -> None:
        self.order = order
        rows_S = np.array(order.shard_rows, np.int64)
        counts_S = -(-rows_S // order.block_rows)
        num_blocks = int(counts_S.sum())
        # Blocks are numbered in the order of the files.
        ends_S = np.cumsum(counts_S)
        self._first_numbers: list[int] = (ends_S - counts_S).tolist()
        self._numbers_B = np.arange(num_blocks)
        if order.shuffle:
            self._numbers_B = _permutation(num_blocks, order.seed, epoch)
        rows_B = np.full(num_blocks, order.block_rows)
        np.subtract.at(rows_B, ends_S - 1, counts_S * order.block_rows - rows_S)
        # Where each block ends among the epoch's rows.
        self._ends_B = np.cumsum(rows_B[self._numbers_B])

    def cut(self, first: int, end: int) -> list[Piece]:
        """The rows at places [first, end) of the epoch's permuted rows."""
        if first == end:
            return []
        inside = slice(np.searchsorted(self._ends_B, first, "right"), np.searchsorted(self._ends_B, end) + 1)
        pieces = []
        for number, block_end in zip(self._numbers_B[inside].tolist(), self._ends_B[inside].tolist(), strict=True):
            shard = bisect_right(self._first_numbers, number) - 1
            first_row = (number - self._first_numbers[shard]) * self.order.block_rows
            start = block_end - min(self.order.block_rows, self.order.shard_rows[shard] - first_row)
            low, high = max(first, start), min(end, block_end)
            pieces.append(Piece(shard, first_row + low - start, high - low))
        return pieces


def lane_range(order: SampleOrder, lane: int) -> tuple[int, int]:
    """First and past-the-end place of a lane in the epoch's permuted rows."""
    quotient, remainder = divmod(order.num_rows, order.num_lanes)
    first = lane * quotient + min(lane, remainder)
    return first, first + quotient + (lane < remainder)


def window_order(order: SampleOrder, epoch: int, lane: int, window: int, rows: int) -> NDArray[np.int64]:
    """The order in which a lane takes the `rows` rows of one of its windows."""
    if not order.shuffle:
        return np.arange(rows, dtype=np.int64)
    return _permutation(rows, order.seed, epoch, lane, window)


def lanes_of_rank(num_lanes: int, rank: int, num_ranks: int) -> range:
    """The lanes a rank owns; `num_lanes` must be a multiple of `num_ranks`."""
    if num_lanes % num_ranks:
        raise ValueError(f"{num_lanes} lanes cannot be dealt to {num_ranks} ranks")
    per_rank = num_lanes // num_ranks
    return range(rank * per_rank, (rank + 1) * per_rank)


def _permutation(length: int, *key: int) -> NDArray[np.int64]:
    """A permutation that depends on nothing but `length` and `key`."""
    return np.random.Generator(np.random.PCG64([length, *key])).permutation(length).astype(np.int64, copy=False)
