"""The sample order over random shards, lanes, blocks and windows: each row once, the same on any number of ranks."""

import hashlib
import json
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.shards.assignment import (
    EpochBlocks,
    Piece,
    SampleOrder,
    lane_range,
    lanes_of_rank,
    window_order,
)

Place = tuple[int, int]  # shard and row

orders = st.builds(
    SampleOrder,
    shard_rows=st.lists(st.integers(0, 60), min_size=1, max_size=6).filter(any).map(tuple),
    num_lanes=st.integers(1, 12),
    rows_per_lane=st.integers(1, 7),
    block_rows=st.integers(1, 9),
    window_blocks=st.integers(1, 5),
    seed=st.integers(0, 2**63 - 1),
    shuffle=st.booleans(),
)
epochs = st.integers(0, 9)


def rows_of(pieces: list[Piece]) -> list[Place]:
    return [(piece.shard, piece.first_row + row) for piece in pieces for row in range(piece.rows)]


def all_rows(order: SampleOrder) -> list[Place]:
    return [(shard, row) for shard, rows in enumerate(order.shard_rows) for row in range(rows)]


def dealt_rows(order: SampleOrder, epoch: int, lane: int) -> list[Place]:
    """All rows of a lane in the order of the blocks."""
    return rows_of(EpochBlocks(order, epoch).cut(*lane_range(order, lane)))


def lane_rows(order: SampleOrder, epoch: int, lane: int) -> list[Place]:
    """All rows of a lane in the order in which it takes them."""
    rows, taken = dealt_rows(order, epoch, lane), []
    for window, first in enumerate(range(0, len(rows), order.window_rows)):
        inside = rows[first : first + order.window_rows]
        taken += [inside[place] for place in window_order(order, epoch, lane, window, len(inside))]
    return taken


def epoch_rows(order: SampleOrder, epoch: int) -> list[list[Place]]:
    return [lane_rows(order, epoch, lane) for lane in range(order.num_lanes)]


def lane_step(order: SampleOrder, epoch: int, lane: int, step: int) -> list[Place]:
    """What a lane takes at a step, found without any earlier step."""
    first, end = lane_range(order, lane)
    blocks = EpochBlocks(order, epoch)
    taken = []
    for place in range(step * order.rows_per_lane, min((step + 1) * order.rows_per_lane, end - first)):
        window, offset = divmod(place, order.window_rows)
        start = first + window * order.window_rows
        inside = rows_of(blocks.cut(start, min(start + order.window_rows, end)))
        taken.append(inside[window_order(order, epoch, lane, window, len(inside))[offset]])
    return taken


@given(orders, epochs)
def test_every_row_is_taken_once_per_epoch(order: SampleOrder, epoch: int) -> None:
    taken = Counter(row for lane in epoch_rows(order, epoch) for row in lane)
    assert taken == Counter(all_rows(order))


@given(orders, epochs)
def test_blocks_are_neighbouring_rows_of_one_shard_and_hold_every_row(order: SampleOrder, epoch: int) -> None:
    blocks = EpochBlocks(order, epoch).cut(0, order.num_rows)
    assert Counter(rows_of(blocks)) == Counter(all_rows(order))
    assert max(block.rows for block in blocks) <= order.block_rows
    assert len(blocks) == sum(-(-rows // order.block_rows) for rows in order.shard_rows)


@given(orders)
def test_lanes_are_neighbours_that_differ_by_at_most_one_row(order: SampleOrder) -> None:
    ranges = [lane_range(order, lane) for lane in range(order.num_lanes)]
    sizes = [end - first for first, end in ranges]
    assert max(sizes) - min(sizes) <= 1
    ends = [end for _, end in ranges]
    assert [first for first, _ in ranges] == [0, *ends[:-1]]
    assert ends[-1] == order.num_rows


@given(orders, epochs)
def test_the_steps_are_as_many_as_the_longest_lane_needs(order: SampleOrder, epoch: int) -> None:
    longest = max(len(lane) for lane in epoch_rows(order, epoch))
    assert (order.num_steps - 1) * order.rows_per_lane < longest <= order.num_steps * order.rows_per_lane


@given(orders, epochs, st.data())
def test_a_step_needs_no_earlier_step(order: SampleOrder, epoch: int, data: st.DataObject) -> None:
    """So that resuming from any step gives exactly the rest."""
    lane = data.draw(st.integers(0, order.num_lanes - 1))
    first_step = data.draw(st.integers(0, order.num_steps))
    rest = [row for step in range(first_step, order.num_steps) for row in lane_step(order, epoch, lane, step)]
    assert rest == lane_rows(order, epoch, lane)[first_step * order.rows_per_lane :]


@given(orders, epochs)
def test_without_shuffling_the_lanes_one_after_the_other_are_the_files(order: SampleOrder, epoch: int) -> None:
    order = SampleOrder(**{**vars(order), "shuffle": False})
    assert [row for lane in epoch_rows(order, epoch) for row in lane] == all_rows(order)


@given(orders, epochs)
def test_a_row_stays_in_its_window(order: SampleOrder, epoch: int) -> None:
    """The memory that a lane needs is one window."""
    for lane in range(order.num_lanes):
        dealt, taken = dealt_rows(order, epoch, lane), lane_rows(order, epoch, lane)
        for first in range(0, len(dealt), order.window_rows):
            window = slice(first, first + order.window_rows)
            assert Counter(taken[window]) == Counter(dealt[window])


@given(orders, epochs)
def test_the_same_arguments_give_the_same_order(order: SampleOrder, epoch: int) -> None:
    assert epoch_rows(order, epoch) == epoch_rows(SampleOrder(**vars(order)), epoch)


@given(orders, epochs, st.integers(1, 5))
def test_epochs_and_seeds_differ(order: SampleOrder, epoch: int, step: int) -> None:
    # Two random orders of 120 rows and more never agree; of few rows they may.
    order = SampleOrder(**{**vars(order), "shard_rows": (*order.shard_rows, 120), "shuffle": True})
    other_seed = SampleOrder(**{**vars(order), "seed": order.seed + step})
    rows = [row for lane in epoch_rows(order, epoch) for row in lane]
    assert rows != [row for lane in epoch_rows(order, epoch + step) for row in lane]
    assert rows != [row for lane in epoch_rows(other_seed, epoch) for row in lane]
    assert rows != all_rows(order)


def test_lanes_and_windows_are_shuffled_each_in_its_own_way() -> None:
    order = SampleOrder((1000,), 4, 10, 10, 5, seed=3)
    seen = [tuple(window_order(order, 0, lane, window, 50)) for lane in range(4) for window in range(5)]
    assert len(set(seen)) == len(seen)


def test_shuffling_leaves_little_of_the_order_of_the_files() -> None:
    order = SampleOrder((5000, 5000), 8, 16, 32, 8, seed=1)
    places = [shard * 5000 + row for lane in epoch_rows(order, 0) for shard, row in lane]
    assert abs(np.corrcoef(places, np.arange(10_000))[0, 1]) < 0.2
    # Rows that were neighbours are seldom neighbours still.
    assert np.mean(np.abs(np.diff(places)) == 1) < 0.02


@given(orders, epochs, st.data())
def test_a_cut_of_an_epoch_is_a_slice_of_its_rows(order: SampleOrder, epoch: int, data: st.DataObject) -> None:
    blocks = EpochBlocks(order, epoch)
    rows = rows_of(blocks.cut(0, order.num_rows))
    first = data.draw(st.integers(0, len(rows)))
    end = data.draw(st.integers(first, len(rows) + 3))
    assert rows_of(blocks.cut(first, end)) == rows[first:end]
    assert all(piece.rows > 0 for piece in blocks.cut(first, end))


def lines_run(function: Callable[..., Any], *arguments: Any) -> int:
    """How many lines of Python a call runs."""
    lines = [0]

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        lines[0] += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function(*arguments)
    finally:
        sys.settrace(before)
    return lines[0]


def test_a_window_is_found_in_as_many_steps_wherever_it_lies() -> None:
    few, many = (EpochBlocks(SampleOrder((rows,), 1, 2, 2, 3, seed=0), 0) for rows in (60, 60_000))
    first, last, of_many = lines_run(few.cut, 0, 6), lines_run(few.cut, 54, 60), lines_run(many.cut, 59_994, 60_000)
    assert first == last == of_many


def test_an_epoch_of_many_blocks_takes_a_few_bytes_of_each() -> None:
    tracemalloc.start()
    try:
        blocks = EpochBlocks(SampleOrder((64_000, 35_999), 4, 1, 1, 1, seed=0), 0)
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert blocks.cut(0, 1)
    assert kept < 20 * 99_999
    assert most < 40 * 99_999


@given(st.integers(1, 8), st.integers(1, 6))
def test_the_ranks_share_all_lanes_in_order(num_ranks: int, lanes_per_rank: int) -> None:
    num_lanes = num_ranks * lanes_per_rank
    owned = [lanes_of_rank(num_lanes, rank, num_ranks) for rank in range(num_ranks)]
    assert [lane for lanes in owned for lane in lanes] == list(range(num_lanes))
    assert {len(lanes) for lanes in owned} == {lanes_per_rank}


def test_lanes_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(ValueError, match="8 lanes cannot be dealt to 3 ranks"):
        lanes_of_rank(8, 0, 3)


def test_a_split_without_rows_has_no_steps() -> None:
    order = SampleOrder((), 4, 2, 3, 2, seed=0)
    assert order.num_steps == 0
    assert epoch_rows(order, 0) == [[], [], [], []]


def test_the_order_never_changes_between_releases() -> None:
    """A run that is resumed by a newer release goes on where it stood."""
    order = SampleOrder((100, 37, 1, 250), 6, 8, 16, 3, seed=2**40 + 7)
    text = json.dumps([epoch_rows(order, epoch) for epoch in range(2)])
    assert epoch_rows(order, 1)[0][:4] == [(3, 199), (3, 198), (3, 188), (3, 157)]
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "f0349a7af9ae51fb0e4d9c869a92679dca066fc50e4b76e34a4672e53b9e43b9"
    )
