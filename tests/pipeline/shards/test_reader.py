"""Shards read back in the sample order on several ranks, plain and compressed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_shards import make_table, write_dataset

from pipeline.preprocess.config import Compression
from pipeline.shards.assignment import EpochBlocks, SampleOrder, lane_range, window_order
from pipeline.shards.manifest import ShardEntry
from pipeline.shards.reader import ShardReader
from pipeline.shards.writer import write_shard

DATASETS: tuple[tuple[int, ...], ...] = ((1,), (9,), (3, 1, 2), (40, 7, 120, 1), (64, 64), (100, 100, 100))
COMPRESSED_BATCH = 8
# By the rows of their shards: the folder and the entries of the index.
Datasets = dict[tuple[int, ...], tuple[Path, list[ShardEntry]]]


def write_datasets(tmp_path_factory: pytest.TempPathFactory, compression: Compression) -> Datasets:
    folders = {shard_rows: tmp_path_factory.mktemp("dataset") for shard_rows in DATASETS}
    return {rows: (folder, write_dataset(folder, rows, compression)) for rows, folder in folders.items()}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Datasets:
    return write_datasets(tmp_path_factory, "none")


@pytest.fixture(scope="module")
def small_batches() -> Iterator[None]:
    """Compressed shards have several record batches."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pipeline.shards.writer.ROWS_PER_COMPRESSED_BATCH", COMPRESSED_BATCH)
        yield


@pytest.fixture(scope="module")
def compressed_datasets(small_batches: None, tmp_path_factory: pytest.TempPathFactory) -> Datasets:
    return write_datasets(tmp_path_factory, "zstd")


# Lanes that 1, 2 and 4 ranks can share; windows of 1 to 60 rows.
orders = st.builds(
    SampleOrder,
    shard_rows=st.sampled_from(DATASETS),
    num_lanes=st.sampled_from([4, 8, 12]),
    rows_per_lane=st.integers(1, 9),
    block_rows=st.integers(1, 12),
    window_blocks=st.integers(1, 5),
    seed=st.integers(0, 2**31),
    shuffle=st.booleans(),
)
epochs = st.integers(0, 3)


def keys_of(table: pa.Table) -> list[int]:
    keys: list[int] = table["key_row"].to_pylist()
    return keys


def read_keys(
    datasets: Datasets, order: SampleOrder, epoch: int, rank: int = 0, num_ranks: int = 1, first_step: int = 0
) -> list[list[int]]:
    """The keys of each batch of a rank."""
    reader = ShardReader(*datasets[order.shard_rows], order, rank, num_ranks)
    return [keys_of(table) for table in reader.batches(epoch, first_step)]


@settings(max_examples=60)
@given(orders, epochs)
def test_every_row_is_seen_once_per_epoch_whatever_the_number_of_ranks(
    datasets: Datasets, order: SampleOrder, epoch: int
) -> None:
    for num_ranks in (1, 2, 4):
        batches = [b for rank in range(num_ranks) for b in read_keys(datasets, order, epoch, rank, num_ranks)]
        assert sorted(key for batch in batches for key in batch) == list(range(order.num_rows))


@settings(max_examples=60)
@given(orders, epochs)
def test_a_global_batch_has_the_same_rows_in_the_same_order_on_any_number_of_ranks(
    datasets: Datasets, order: SampleOrder, epoch: int
) -> None:
    alone = read_keys(datasets, order, epoch)
    assert len(alone) == order.num_steps
    for num_ranks in (2, 4):
        ranks = [read_keys(datasets, order, epoch, rank, num_ranks) for rank in range(num_ranks)]
        # `strict`: every rank takes the same number of steps.
        together = [[key for batch in step for key in batch] for step in zip(*ranks, strict=True)]
        assert together == alone


@settings(max_examples=60)
@given(orders, epochs, st.sampled_from([1, 2, 4]), st.data())
def test_resuming_at_any_step_gives_exactly_the_rest(
    datasets: Datasets, order: SampleOrder, epoch: int, num_ranks: int, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, num_ranks - 1))
    first_step = data.draw(st.integers(0, order.num_steps))
    whole = read_keys(datasets, order, epoch, rank, num_ranks)
    assert read_keys(datasets, order, epoch, rank, num_ranks, first_step) == whole[first_step:]


def test_resuming_in_the_middle_of_a_window_gives_exactly_the_rest(datasets: Datasets) -> None:
    # Steps of 3 rows in windows of 20 rows.
    order = SampleOrder((100, 100, 100), 4, 3, 5, 4, seed=5)
    whole = read_keys(datasets, order, 1)
    assert whole != sorted(whole)
    assert read_keys(datasets, order, 1, first_step=4) == whole[4:]


@settings(max_examples=40)
@given(orders, epochs)
def test_the_rows_on_disk_come_in_the_order_of_the_assignment(
    datasets: Datasets, order: SampleOrder, epoch: int
) -> None:
    first_keys = np.cumsum((0, *order.shard_rows))
    lanes = []
    for lane in range(order.num_lanes):
        dealt = [
            int(first_keys[piece.shard]) + piece.first_row + row
            for piece in EpochBlocks(order, epoch).cut(*lane_range(order, lane))
            for row in range(piece.rows)
        ]
        windows = [dealt[first : first + order.window_rows] for first in range(0, len(dealt), order.window_rows)]
        lanes.append(
            [rows[i] for w, rows in enumerate(windows) for i in window_order(order, epoch, lane, w, len(rows))]
        )
    steps = [slice(step * order.rows_per_lane, (step + 1) * order.rows_per_lane) for step in range(order.num_steps)]
    expected = [[key for lane in lanes for key in lane[step]] for step in steps]
    assert read_keys(datasets, order, epoch) == expected


@settings(max_examples=40)
@given(orders, epochs)
def test_a_batch_has_at_most_its_rows_and_every_column_follows_its_key(
    datasets: Datasets, order: SampleOrder, epoch: int
) -> None:
    reader = ShardReader(*datasets[order.shard_rows], order)
    assert reader.rows_per_batch == order.num_lanes * order.rows_per_lane
    whole = make_table(0, order.num_rows)
    for table in reader.batches(epoch):
        assert table.num_rows <= reader.rows_per_batch
        assert table.equals(whole.take(pa.array(keys_of(table), pa.int64())))


def test_more_lanes_than_rows_leave_some_ranks_with_empty_batches(datasets: Datasets) -> None:
    order = SampleOrder((3, 1, 2), 8, 2, 2, 2, seed=0)
    ranks = [read_keys(datasets, order, 0, rank, 4) for rank in range(4)]
    assert [[len(batch) for batch in batches] for batches in ranks] == [[2], [2], [2], [0]]
    reader = ShardReader(*datasets[order.shard_rows], order, 3, 4)
    (empty,) = reader.batches(0)
    assert empty.schema == make_table(0, 1).schema


def test_lanes_that_end_early_give_short_batches_at_the_end(datasets: Datasets) -> None:
    # 9 rows in 4 lanes of 3, 2, 2 and 2: the third step finds a row in the first lane only.
    order = SampleOrder((9,), 4, 1, 2, 2, seed=0)
    ranks = [read_keys(datasets, order, 0, rank, 2) for rank in range(2)]
    assert [[len(batch) for batch in batches] for batches in ranks] == [[2, 2, 1], [2, 2, 0]]


def test_a_split_without_shards_has_no_batches(tmp_path: Path) -> None:
    reader = ShardReader(tmp_path, [], SampleOrder((), 4, 2, 3, 2, seed=0))
    assert list(reader.batches(0)) == []


def test_two_readings_of_one_reader_are_the_same(datasets: Datasets) -> None:
    """As in validation, which reads its split after every epoch; also after one that was left."""
    order = SampleOrder((40, 7, 120, 1), 4, 5, 6, 2, seed=1)
    reader = ShardReader(*datasets[order.shard_rows], order)
    next(reader.batches(0))
    first, second = ([keys_of(table) for table in reader.batches(0)] for _ in range(2))
    assert first == second


# --- compressed shards


@settings(max_examples=60)
@given(orders, epochs, st.integers(0, 3))
def test_compressed_shards_give_the_batches_of_plain_ones(
    datasets: Datasets, compressed_datasets: Datasets, order: SampleOrder, epoch: int, first_step: int
) -> None:
    plain, compressed = (ShardReader(*one[order.shard_rows], order, 1, 2) for one in (datasets, compressed_datasets))
    pairs = zip(plain.batches(epoch, first_step), compressed.batches(epoch, first_step), strict=True)
    assert all(ours.equals(theirs) for ours, theirs in pairs)


def test_a_compressed_shard_is_smaller_the_same_bytes_each_time_and_never_whole_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.shards.writer.ROWS_PER_COMPRESSED_BATCH", 256)
    table = make_table(0, 64 * 256)
    first, second = (write_shard(tmp_path / name, table, "train", "zstd") for name in ("a.arrow", "b.arrow"))
    plain = write_shard(tmp_path / "c.arrow", table, "train")
    assert (first.sha256, first.bytes) == (second.sha256, second.bytes)
    assert first.bytes < plain.bytes / 2

    order = SampleOrder((table.num_rows,), 4, 32, 64, 4, seed=0)
    before, most, unpacked = pa.total_allocated_bytes(), [0], []
    reader = ShardReader(tmp_path, [first], order)
    shard = reader._shards[0]

    class Watched:
        """Unpacks record batches and notes which, and how much memory there is then."""

        def __init__(self, real: Any) -> None:
            self.real = real

        def get_batch(self, number: int) -> pa.RecordBatch:
            batch = self.real.get_batch(number)
            unpacked.append(number)
            most[0] = max(most[0], pa.total_allocated_bytes() - before)
            return batch

    shard._reader = Watched(shard._reader)
    assert sorted(key for batch in reader.batches(0) for key in keys_of(batch)) == list(range(table.num_rows))
    # A block of 64 rows lies in one record batch, unless two lanes share it.
    assert len(unpacked) <= table.num_rows // 64 + 4
    # Four windows of 256 rows, and the record batches that one of them is made of.
    assert most[0] < table.nbytes / 2
