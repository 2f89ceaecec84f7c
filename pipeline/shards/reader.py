"""Shards to global batches of rows, in the order of `assignment`, for one rank; resuming is arithmetic."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, zip_longest
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ArtifactError
from pipeline.files import retry
from pipeline.shards.assignment import EpochBlocks, Piece, SampleOrder, lane_range, lanes_of_rank, window_order
from pipeline.shards.manifest import ROWS_PER_BATCH_KEY, SHARD_REMEDY, ShardEntry

# Of the small batches of a compressed shard, handing columns to other threads takes longer than unpacking them.
_ONE_THREAD = pa.ipc.IpcReadOptions(use_threads=False)


class ShardReader:
    """Reads one rank's share of every global batch of a split from memory-mapped shards.

    Of a compressed shard it unpacks what the windows that it loads touch, and no more is in memory than those windows.

    Raises:
        ArtifactError: a shard cannot be opened, or does not have the rows of the index or the columns of the others.
    """

    def __init__(
        self, dataset_dir: Path, shards: Sequence[ShardEntry], order: SampleOrder, rank: int = 0, num_ranks: int = 1
    ) -> None:
        self.order = order
        self.lanes = lanes_of_rank(order.num_lanes, rank, num_ranks)
        self.rows_per_batch = order.rows_per_lane * len(self.lanes)
        self._shards = [_open_shard(dataset_dir / shard.path, shard.rows) for shard in shards]
        _check_columns([dataset_dir / shard.path for shard in shards], self._shards)

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[pa.Table]:
        """This rank's rows of each global batch of an epoch from `first_step` on.

        The last tables may have fewer rows than `rows_per_batch`, or none; every rank yields the same number of them.
        """
        blocks = EpochBlocks(self.order, epoch)
        first_row = first_step * self.order.rows_per_lane
        lanes = [_Lane(self, epoch, lane, blocks, first_row) for lane in self.lanes]
        for _ in range(first_step, self.order.num_steps):
            parts = [part for lane in lanes for part in lane.take(self.order.rows_per_lane)]
            yield pa.Table.from_batches(parts, self._shards[0].schema)

    def read(self, pieces: Sequence[Piece]) -> pa.Table:
        """The rows of some pieces, in their order, copied out of the shards."""
        return pa.Table.from_batches(self.parts(pieces), self._shards[0].schema).combine_chunks()

    def parts(self, pieces: Sequence[Piece]) -> list[pa.RecordBatch]:
        """The same rows in their order, not yet put together."""
        return [part for piece in pieces for part in self._shards[piece.shard].slice(piece.first_row, piece.rows)]


class _Lane:
    """A cursor in one lane of one epoch, with the window it stands in."""

    def __init__(self, reader: ShardReader, epoch: int, lane: int, blocks: EpochBlocks, first_row: int) -> None:
        self.reader = reader
        self.epoch = epoch
        self.lane = lane
        self.blocks = blocks
        self.first_place, end = lane_range(reader.order, lane)
        self.num_rows = end - self.first_place
        self.next_row = first_row
        self.window_number = -1
        self.window = pa.record_batch({})

    def take(self, rows: int) -> list[pa.RecordBatch]:
        """The lane's next `rows` rows, fewer at its end."""
        parts = []
        window_rows = self.reader.order.window_rows
        end = min(self.next_row + rows, self.num_rows)
        while self.next_row < end:
            number, offset = divmod(self.next_row, window_rows)
            if number != self.window_number:
                self._load(number)
            part = self.window.slice(offset, end - self.next_row)
            parts.append(part)
            self.next_row += part.num_rows
        return parts

    def _load(self, number: int) -> None:
        order = self.reader.order
        first = number * order.window_rows
        rows = min(order.window_rows, self.num_rows - first)
        place = self.first_place + first
        # Record batches: slices of them take a third of the time that those of tables take.
        self.window = pa.concat_batches(self.reader.parts(self.blocks.cut(place, place + rows)))
        self.window_number = number
        if order.shuffle:
            if self.window.num_rows != rows:  # checked once here, and not for each of its places in each column
                raise AssertionError(f"a window of {rows} rows has {self.window.num_rows}")
            places = window_order(order, self.epoch, self.lane, number, rows)
            self.window = pc.take(self.window, pa.array(places), boundscheck=False)


class _Shard:
    """A shard's record batches; those of a compressed shard are unpacked when rows are asked for, and not kept."""

    def __init__(self, path: Path, reader: pa.ipc.RecordBatchFileReader) -> None:
        self.path = path
        self.schema = reader.schema
        self._reader = reader
        self._kept: list[pa.RecordBatch] = []
        rows_per_batch = int((reader.schema.metadata or {}).get(ROWS_PER_BATCH_KEY, 0))
        if rows_per_batch > 0:
            last = reader.num_record_batches - 1
            self.num_rows = last * rows_per_batch + reader.get_batch(last).num_rows
            self._starts = [*range(0, self.num_rows, rows_per_batch), self.num_rows]
        else:
            self._kept = [reader.get_batch(number) for number in range(reader.num_record_batches)]
            self._starts = list(accumulate((batch.num_rows for batch in self._kept), initial=0))
            self.num_rows = self._starts[-1]

    def slice(self, first_row: int, num_rows: int) -> list[pa.RecordBatch]:
        parts, end = [], first_row + num_rows
        number = bisect_right(self._starts, first_row) - 1
        with _explaining(self.path):
            while first_row < end:
                start = self._starts[number]
                parts.append(self._batch(number).slice(first_row - start, end - first_row))
                number, first_row = number + 1, self._starts[number + 1]
        return parts

    def _batch(self, number: int) -> pa.RecordBatch:
        if self._kept:
            return self._kept[number]
        batch = self._reader.get_batch(number)
        if batch.num_rows != self._starts[number + 1] - self._starts[number]:
            raise ValueError(f"record batch {number} has {batch.num_rows} rows")
        return batch


def _open_shard(path: Path, rows: int) -> _Shard:
    def read() -> _Shard:
        with pa.memory_map(str(path)) as source:
            return _Shard(path, pa.ipc.open_file(source.read_buffer(), options=_ONE_THREAD))

    with _explaining(path):
        shard = retry(read, path)
        _columns(shard)  # a damaged name can be no text
    if shard.num_rows != rows:
        raise ArtifactError(f"shard {path} has {shard.num_rows} rows, expected {rows}", SHARD_REMEDY)
    return shard


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ArtifactError(f"shard {path} cannot be read: {str(error).splitlines()[0]}", SHARD_REMEDY) from error


def _columns(shard: _Shard) -> list[str]:
    return [f"{field.name}: {field.type}" for field in shard.schema]


def _check_columns(paths: Sequence[Path], shards: Sequence[_Shard]) -> None:
    """Raises an ArtifactError that names a shard whose columns are not those of the first one."""
    for path, shard in zip(paths, shards, strict=True):
        for ours, theirs in zip_longest(_columns(shard), _columns(shards[0]), fillvalue="none"):
            if ours != theirs:
                raise ArtifactError(
                    f"shard {path} has the column {ours}, where {paths[0].name} has {theirs}", SHARD_REMEDY
                )
