"""The simulated feed: its form is the promised one, its histories look back only, its bytes follow the seed."""

import tracemalloc
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from simulated_feed import BINARY_TASKS, NUM_DAYS, NUM_ROWS, numbers, read, simulate_feed

from pipeline.errors import UsageError
from pipeline.simulate.run import simulate


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_feed(tmp_path_factory.mktemp("feed"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_holds_what_is_promised_and_nothing_else(feed: Path) -> None:
    days = [f"day-{day:02d}.parquet" for day in range(1, NUM_DAYS + 1)]
    tables = ["candidates.parquet", "items.parquet", "simulation.json", "users.parquet"]
    assert sorted(contents(feed)) == sorted([*tables, *(f"{kind}/{day}" for kind in ("log", "truth") for day in days)])


def test_same_seed_writes_identical_bytes(tmp_path: Path) -> None:
    for name, seed in (("first", 1), ("second", 1), ("other", 2)):
        simulate(tmp_path / name, 3_000, seed)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    assert contents(tmp_path / "first") != contents(tmp_path / "other")


def test_the_rows_do_not_depend_on_the_chunks_they_are_made_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulate(tmp_path / "whole", 5_003, seed=1)
    monkeypatch.setattr("pipeline.simulate.log.ROWS_PER_CHUNK", 370)
    simulate(tmp_path / "chunked", 5_003, seed=1)
    for name in ("log", "truth", "candidates.parquet"):
        assert read(tmp_path / "chunked" / name).equals(read(tmp_path / "whole" / name))


def test_memory_does_not_grow_with_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.simulate.log.ROWS_PER_CHUNK", 5_000)

    def peak_bytes(num_rows: int) -> int:
        tracemalloc.start()
        simulate(tmp_path / str(num_rows), num_rows, seed=1, num_users=300, num_items=300)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_bytes(160_000) < 1.1 * peak_bytes(40_000)


def test_rows_are_numbered_in_order_of_time_and_split_evenly_into_days(feed: Path) -> None:
    log = read(feed / "log")
    assert log["impression_id"].to_pylist() == list(range(1, NUM_ROWS + 1))
    time_us = log["timestamp"].cast(pa.int64()).to_numpy()
    request = log["request_id"].to_numpy()
    is_new_request = np.diff(request) == 1
    assert np.all((np.diff(request) == 0) | is_new_request)
    assert np.array_equal(np.diff(time_us) > 0, is_new_request)
    first = np.datetime64("2025-01-06", "us").astype(np.int64)
    rows_by_day = np.bincount((time_us - first) // 86_400_000_000)
    assert len(rows_by_day) == NUM_DAYS
    assert np.ptp(rows_by_day) <= 1
    assert np.array_equal(time_us // 3_600_000_000 % 24, log["hour"].to_numpy())


def test_a_request_shows_one_user_distinct_items_that_are_already_published(feed: Path) -> None:
    log, published = read(feed / "log"), read(feed / "items.parquet")["published"].to_numpy()
    requests = log.group_by("request_id").aggregate(
        [("user_id", "count_distinct"), ("item_id", "count_distinct"), ("item_id", "count")]
    )
    assert pc.all(pc.equal(requests["user_id_count_distinct"], 1)).as_py()
    assert requests["item_id_count_distinct"].equals(requests["item_id_count"])
    assert np.all(published[log["item_id"].to_numpy() - 1] <= log["timestamp"].to_numpy())


def test_every_day_shows_items_published_on_that_day(feed: Path) -> None:
    published = read(feed / "items.parquet")["published"].to_numpy().astype("datetime64[D]")
    for day in range(NUM_DAYS):
        items = pq.read_table(feed / "log" / f"day-{day + 1:02d}.parquet")["item_id"].to_numpy()
        assert np.any(published[items - 1] == np.datetime64("2025-01-06") + day)


def test_history_holds_only_earlier_clicks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.simulate.log.ROWS_PER_CHUNK", 900)
    simulate(tmp_path, 7_001, seed=5, num_users=30)
    columns = ["request_id", "user_id", "item_id", "click", "history"]
    clicked: dict[int, list[int]] = defaultdict(list)
    pending: dict[int, list[int]] = defaultdict(list)
    current, longest = 0, 0
    for request, user, item, click, history in zip(
        *(read(tmp_path / "log")[c].to_pylist() for c in columns), strict=True
    ):
        if request != current:
            for earlier_user, items in pending.items():
                clicked[earlier_user] += items
            pending.clear()
            current = request
        assert history == clicked[user][::-1][:20]
        longest = max(longest, len(history))
        if click:
            pending[user].append(item)
    assert longest == 20

    for earlier_user, items in pending.items():
        clicked[earlier_user] += items
    for candidate in read(tmp_path / "candidates.parquet").to_pylist():
        assert candidate["history"] == clicked[candidate["user_id"]][::-1][:20]


def test_no_conversion_without_click(feed: Path) -> None:
    log = read(feed / "log")
    click, like, purchase = (numbers(log, task) for task in BINARY_TASKS)
    assert set(np.unique(click)) == set(np.unique(like)) == set(np.unique(purchase)) == {0, 1}
    assert not like[click == 0].any()
    assert not purchase[click == 0].any()
    assert np.array_equal(log["watch_seconds"].is_null().to_numpy(), click == 0)
    assert pc.min(log["watch_seconds"]).as_py() > 0


def test_tables_have_nulls_lists_and_the_documented_types(feed: Path) -> None:
    users, items, log = (read(feed / name) for name in ("users.parquet", "items.parquet", "log"))
    for table, column in ((users, "age"), (users, "interests"), (items, "price"), (log, "device")):
        assert 0.005 < table[column].null_count / table.num_rows < 0.15
    assert all(1 <= len(tags.split(",")) <= 4 for tags in items["tags"].to_pylist())
    assert {str(log.schema.field(name).type) for name in BINARY_TASKS} == {"int8"}
    assert log.schema.field("timestamp").type == pa.timestamp("us")
    assert log.schema.field("history").type.value_type == pa.int64()
    assert users["user_id"].to_pylist() == list(range(1, users.num_rows + 1))


def test_candidates_are_new_requests_with_distinct_items_after_the_log(tmp_path: Path) -> None:
    simulate(tmp_path, 2_000, seed=1, num_candidate_requests=40, candidates_per_request=60)
    log, candidates = read(tmp_path / "log"), read(tmp_path / "candidates.parquet")
    assert candidates.num_rows == 40
    assert set(candidates["request_id"].to_pylist()).isdisjoint(log["request_id"].to_pylist())
    assert pc.min(candidates["timestamp"]).as_py() > pc.max(log["timestamp"]).as_py()
    known = set(read(tmp_path / "items.parquet")["item_id"].to_pylist())
    for items in candidates["items"].to_pylist():
        assert len(set(items)) == 60
        assert known.issuperset(items)


def test_progress_counts_every_row_once(tmp_path: Path) -> None:
    counts: list[int] = []
    simulate(tmp_path, 1_000, seed=0, num_days=3, progress=counts.append)
    assert sum(counts) == 1_000


def test_a_log_of_the_smallest_size_is_written(tmp_path: Path) -> None:
    simulate(tmp_path, 4, seed=0, num_days=2, items_per_request=2, num_users=1)
    assert read(tmp_path / "log").num_rows == 4


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_rows": 69}, "num_rows is 69, and must be at least 70"),
        ({"seed": -1}, "seed is -1"),
        ({"task_correlation": 1.01}, "task_correlation is 1.01, and must be from 0 to 1"),
        ({"task_correlation": float("nan")}, "task_correlation is nan"),
        ({"num_days": 0}, "num_days is 0"),
        ({"num_days": 100}, "num_days is 100, and must be from 1 to 99"),
        ({"drift": -0.1}, "drift is -0.1, and must be from 0 to 1.5"),
        ({"num_users": 0}, "num_users is 0"),
        ({"num_items": 99}, "num_items is 99, and must be at least 100"),
        ({"candidates_per_request": 500}, "num_items is 200, and must be at least 500"),
    ],
)
def test_an_argument_out_of_range_is_refused_before_anything_is_written(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        simulate(tmp_path / "out", **{"num_rows": 1_000, "seed": 0, **change})
    assert not (tmp_path / "out").exists()


def make_file(out: Path) -> None:
    out.write_text("mine")


def make_full_folder(out: Path) -> None:
    out.mkdir()
    (out / "notes.txt").write_text("mine")


@pytest.mark.parametrize("occupy", [make_file, make_full_folder])
def test_a_place_that_is_taken_is_left_alone(tmp_path: Path, occupy: Callable[[Path], None]) -> None:
    out = tmp_path / "out"
    occupy(out)
    with pytest.raises(UsageError, match="already holds something"):
        simulate(out, 1_000, seed=0)
    assert [path.read_text() for path in tmp_path.rglob("*") if path.is_file()] == ["mine"]
