"""The sample order: every row once an epoch, the same global batches on any number of ranks, resuming by arithmetic."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.shards.assignment import SampleOrder, epoch_blocks, lane_range, lanes_of_rank
from pipeline.shards.reader import ShardReader
from pipeline.shards.writer import write_shard

LANES = (1, 2, 4, 8)

orders = st.builds(
    SampleOrder,
    shard_rows=st.lists(st.integers(1, 40), min_size=1, max_size=4).map(tuple),
    num_lanes=st.sampled_from(LANES),
    rows_per_lane=st.integers(1, 7),
    block_rows=st.integers(1, 9),
    window_blocks=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    shuffle=st.booleans(),
)
many = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])


def readers(folder: Path, order: SampleOrder, num_ranks: int) -> list[ShardReader]:
    """A reader per rank over shards whose only column numbers the rows of the whole split."""
    shards, first = [], 0
    for place, rows in enumerate(order.shard_rows):
        table = pa.table({"row": pa.array(range(first, first + rows), pa.int64())})
        shards.append(write_shard(folder / f"train-{place:05d}.arrow", table, "train"))
        first += rows
    return [ShardReader(folder, shards, order, rank, num_ranks) for rank in range(num_ranks)]


def rows_by_step(reader: ShardReader, epoch: int, first_step: int = 0) -> list[list[int]]:
    return [table["row"].to_pylist() for table in reader.batches(epoch, first_step)]


@many
@given(order=orders, epoch=st.integers(0, 3))
def test_every_row_is_read_once_per_epoch(tmp_path: Path, order: SampleOrder, epoch: int) -> None:
    (reader,) = readers(tmp_path, order, 1)
    batches = rows_by_step(reader, epoch)
    assert len(batches) == order.num_steps
    assert sorted(row for batch in batches for row in batch) == list(range(order.num_rows))


@many
@given(order=orders, epoch=st.integers(0, 2), data=st.data())
def test_a_global_batch_is_the_same_on_any_number_of_ranks(
    tmp_path: Path, order: SampleOrder, epoch: int, data: st.DataObject
) -> None:
    num_ranks = data.draw(st.sampled_from([n for n in LANES if order.num_lanes % n == 0]))
    (alone,) = readers(tmp_path, order, 1)
    together = [rows_by_step(reader, epoch) for reader in readers(tmp_path, order, num_ranks)]
    assert [[row for part in step for row in part] for step in zip(*together, strict=True)] == rows_by_step(
        alone, epoch
    )


@many
@given(order=orders, epoch=st.integers(0, 2), data=st.data())
def test_resuming_gives_exactly_the_rest_of_the_epoch(
    tmp_path: Path, order: SampleOrder, epoch: int, data: st.DataObject
) -> None:
    first_step = data.draw(st.integers(0, order.num_steps))
    (reader,) = readers(tmp_path, order, 1)
    assert rows_by_step(reader, epoch, first_step) == rows_by_step(reader, epoch)[first_step:]


@many
@given(order=orders)
def test_lanes_differ_by_at_most_one_row_and_cover_the_split(order: SampleOrder) -> None:
    ranges = [lane_range(order, lane) for lane in range(order.num_lanes)]
    sizes = [end - first for first, end in ranges]
    assert max(sizes) - min(sizes) <= 1
    assert [first for first, _ in ranges] == [0, *(end for _, end in ranges[:-1])]
    assert ranges[-1][1] == order.num_rows


def test_epochs_and_seeds_give_other_orders_and_the_same_arguments_the_same() -> None:
    order = SampleOrder((500, 300), 2, 10, 16, 4, seed=5)
    other = SampleOrder((500, 300), 2, 10, 16, 4, seed=6)
    assert epoch_blocks(order, 0) == epoch_blocks(order, 0)
    assert epoch_blocks(order, 0) != epoch_blocks(order, 1)
    assert epoch_blocks(order, 0) != epoch_blocks(other, 0)


def test_without_shuffling_one_lane_keeps_the_order_of_the_file(tmp_path: Path) -> None:
    order = SampleOrder((7, 5), 1, 4, 3, 2, seed=0, shuffle=False)
    (reader,) = readers(tmp_path, order, 1)
    assert rows_by_step(reader, 0) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_lanes_that_ranks_cannot_share_are_refused() -> None:
    with pytest.raises(ValueError, match="8 lanes cannot be dealt to 3 ranks"):
        lanes_of_rank(8, 0, 3)
