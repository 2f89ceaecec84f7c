"""A random sample of a split's encoded rows, and its division into parts that are random samples too."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.shards.assignment import Piece, SampleOrder
from pipeline.shards.manifest import ShardEntry
from pipeline.shards.reader import ShardReader

WINDOW_ROWS = 1 << 16


def sample_rows(dataset_dir: Path, shards: Sequence[ShardEntry], num_rows: int, seed: int) -> pa.Table:
    """`num_rows` rows of all shards in their order, all rows if there are no more; any two rows are as likely.

    One window of a shard is in memory at a time.

    Raises:
        ArtifactError: a shard cannot be read.
    """
    order = SampleOrder(tuple(shard.rows for shard in shards), 1, WINDOW_ROWS, WINDOW_ROWS, 1, seed, shuffle=False)
    reader = ShardReader(dataset_dir, shards, order)
    generator = np.random.Generator(np.random.PCG64([seed, order.num_rows]))
    size = min(num_rows, order.num_rows)
    chosen = np.sort(generator.choice(order.num_rows, size, replace=False, shuffle=False))
    parts = []
    for piece, first in _windows(order):
        low, high = np.searchsorted(chosen, [first, first + piece.rows])
        if low < high:
            parts.append(reader.read([piece]).take(pa.array(chosen[low:high] - first)))
    return pa.concat_tables(parts) if parts else reader.read([Piece(0, 0, 0)])


def deal(num_rows: int, num_parts: int) -> list[slice]:
    """Every `num_parts`-th row for each part: the parts of a sample in the order of the log are samples of it."""
    return [slice(part, num_rows, num_parts) for part in range(min(num_parts, num_rows))]


def _windows(order: SampleOrder) -> Iterator[tuple[Piece, int]]:
    """Pieces of at most `WINDOW_ROWS` rows, each with the place of its first row in the split."""
    first = 0
    for shard, rows in enumerate(order.shard_rows):
        for start in range(0, rows, WINDOW_ROWS):
            piece = Piece(shard, start, min(WINDOW_ROWS, rows - start))
            yield piece, first
            first += piece.rows
