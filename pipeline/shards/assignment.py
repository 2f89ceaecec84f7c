"""Which row is trained when: a pure function of (rows per shard, seed, epoch), the same on any number of ranks.

Blocks of neighbouring rows are permuted; the permuted rows are dealt into lanes that differ by at most one row; each
lane shuffles its rows inside a window of blocks. Global batch g takes the next rows of every lane, and a rank owns
whole lanes.
"""

from collections.abc import Sequence
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


def epoch_blocks(order: SampleOrder, epoch: int) -> list[Piece]:
    """All blocks of all shards, in the order of one epoch."""
    blocks = [
        Piece(shard, first, min(order.block_rows, rows - first))
        for shard, rows in enumerate(order.shard_rows)
        for first in range(0, rows, order.block_rows)
    ]
    if not order.shuffle:
        return blocks
    return [blocks[place] for place in _permutation(len(blocks), order.seed, epoch)]


def lane_range(order: SampleOrder, lane: int) -> tuple[int, int]:
    """First and past-the-end place of a lane in the epoch's permuted rows."""
    quotient, remainder = divmod(order.num_rows, order.num_lanes)
    first = lane * quotient + min(lane, remainder)
    return first, first + quotient + (lane < remainder)


def lane_pieces(order: SampleOrder, blocks: Sequence[Piece], lane: int) -> list[Piece]:
    """The rows of a lane, as pieces of `blocks` in their order."""
    first, end = lane_range(order, lane)
    return cut(blocks, first, end)


def cut(pieces: Sequence[Piece], first: int, end: int) -> list[Piece]:
    """The rows at places [first, end) of a sequence of pieces, as pieces again."""
    found, place = [], 0
    for piece in pieces:
        low, high = max(first, place), min(end, place + piece.rows)
        if low < high:
            found.append(Piece(piece.shard, piece.first_row + low - place, high - low))
        place += piece.rows
        if place >= end:
            break
    return found


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
    return np.random.Generator(np.random.PCG64([length, *key])).permutation(length).astype(np.int64)
