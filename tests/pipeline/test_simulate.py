"""The simulated feed: its labels follow the written truth, its histories look back only, its bytes follow the seed."""

import json
import tracemalloc
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UsageError
from pipeline.simulate.feed import Feed
from pipeline.simulate.run import simulate
from pipeline.simulate.truth import make_truth
from pipeline.simulate.world import make_world

NUM_ROWS = 60_003
NUM_DAYS = 7
BINARY_TASKS = ("click", "like", "purchase")

Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("feed")
    simulate(out, NUM_ROWS, seed=3)
    return out


def read(path: Path) -> pa.Table:
    """One file, or all files of a folder in the order of their names."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return pa.concat_tables([pq.read_table(file) for file in files]).combine_chunks()


def numbers(table: pa.Table, column: str) -> Floats:
    return np.asarray(table[column].to_numpy(), dtype=np.float64)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def area_under_curve(labels: Floats, scores: Floats) -> float:
    """Mann-Whitney; scores without ties."""
    ranks = np.argsort(np.argsort(scores)) + 1
    num_positive = labels.sum()
    wins = ranks[labels == 1].sum() - num_positive * (num_positive + 1) / 2
    return float(wins / (num_positive * (len(labels) - num_positive)))


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


def test_empirical_rates_match_the_truth(feed: Path) -> None:
    log, truth = read(feed / "log"), read(feed / "truth")
    assert truth["impression_id"].equals(log["impression_id"])
    click = numbers(log, "click")
    for task in BINARY_TASKS:
        rows = np.ones(NUM_ROWS, dtype=bool) if task == "click" else click == 1
        label, probability = numbers(log, task)[rows], numbers(truth, task)[rows]
        for tenth in np.array_split(np.argsort(probability), 10):
            expected, deviation = probability[tenth].sum(), np.sqrt((probability * (1 - probability))[tenth].sum())
            assert abs(label[tenth].sum() - expected) < 4 * deviation


def test_watch_seconds_scatter_around_their_true_mean(feed: Path) -> None:
    log, truth = read(feed / "log"), read(feed / "truth")
    is_clicked = numbers(log, "click") == 1
    ratio = numbers(log, "watch_seconds")[is_clicked] / numbers(truth, "watch")[is_clicked]
    # A gamma distribution of shape 2 and mean 1 has variance 1/2.
    assert abs(ratio.mean() - 1) < 4 * np.sqrt(0.5 / len(ratio))
    assert ratio.var() == pytest.approx(0.5, rel=0.1)


def test_truth_beats_any_other_score(feed: Path) -> None:
    log, truth = read(feed / "log"), read(feed / "truth")
    rng = np.random.default_rng(0)
    click = numbers(log, "click")
    for task in BINARY_TASKS:
        rows = np.ones(NUM_ROWS, dtype=bool) if task == "click" else click == 1
        label, probability = numbers(log, task)[rows], numbers(truth, task)[rows]
        best = area_under_curve(label, probability)
        assert 0.72 < best < 0.87
        noisy = probability * np.exp(0.3 * rng.standard_normal(len(label)))
        others = [noisy, rng.permutation(probability), numbers(truth, "like" if task == "click" else "click")[rows]]
        assert all(area_under_curve(label, other) < best for other in others)


def test_rates_are_those_of_a_feed(feed: Path) -> None:
    rates = json.loads((feed / "simulation.json").read_text())["label_rates"]
    log = read(feed / "log")
    assert rates["click"] == pytest.approx(numbers(log, "click").mean())
    assert rates["watch"] == pytest.approx(pc.mean(log["watch_seconds"]).as_py(), rel=1e-5)
    assert 0.25 < rates["click"] < 0.38
    assert 0.15 < rates["like"] < 0.3
    assert 0.1 < rates["purchase"] < 0.2


@pytest.mark.parametrize("task_correlation", [0.0, 0.5, 1.0])
def test_task_correlation_knob_moves_the_correlation_of_true_logits(tmp_path: Path, task_correlation: float) -> None:
    simulate(tmp_path, 20_000, seed=2, task_correlation=task_correlation)
    truth = read(tmp_path / "truth")
    logits = [np.log(p / (1 - p)) for p in (numbers(truth, task) for task in BINARY_TASKS)]
    correlations = np.corrcoef(logits)
    assert correlations[0, 1:] == pytest.approx(task_correlation, abs=0.06)
    # Tasks other than the first share only their part of u_1.
    assert correlations[1, 2] == pytest.approx(task_correlation**2, abs=0.06)


def test_popularity_is_skewed_and_drifts(feed: Path) -> None:
    days = [pq.read_table(feed / "log" / f"day-{day}.parquet")["item_id"].to_numpy() for day in ("01", "07")]
    num_items = read(feed / "items.parquet").num_rows
    first, last = (np.bincount(items, minlength=num_items + 1)[1:] / len(items) for items in days)
    assert np.sort(first)[::-1][: num_items // 10].sum() > 0.3
    is_old = first > 0
    assert 0.5 < np.corrcoef(first[is_old], last[is_old])[0, 1] < 0.95


def test_items_are_shown_more_while_they_are_new(feed: Path) -> None:
    published = read(feed / "items.parquet")["published"].to_numpy()
    is_new = (published >= np.datetime64("2025-01-06")) & (published < np.datetime64("2025-01-09"))
    days = [pq.read_table(feed / "log" / f"day-{day}.parquet")["item_id"].to_numpy() for day in ("04", "07")]
    early, late = (is_new[items - 1].mean() for items in days)
    assert early > 1.3 * late


def test_the_truth_drifts_slowly() -> None:
    rng = np.random.default_rng(0)
    world = make_world(rng, num_rows=10_000, num_users=200, num_items=200, num_days=NUM_DAYS)
    impressions = Feed(rng, world, 0, 1_000, 10).take(1_000).impressions()
    truth = make_truth(rng, world, impressions, task_correlation=0.6)
    first, last = (truth.logits(world, replace(impressions, day=day)) for day in (0, NUM_DAYS - 1))
    for task_first, task_last in zip(first, last, strict=True):
        assert 0.98 < np.corrcoef(task_first, task_last)[0, 1] < 0.9995


def test_drift_turns_the_truth_of_each_day_and_not_what_is_shown(tmp_path: Path) -> None:
    radians, num_days = 0.1, 8
    for name, drift in (("still", 0.0), ("drifting", radians)):
        simulate(tmp_path / name, 24_000, seed=1, num_days=num_days, drift=drift, num_items=200)
    still, drifting = (read(tmp_path / name / "log") for name in ("still", "drifting"))
    assert still["item_id"].equals(drifting["item_id"])
    logits: dict[str, Floats] = {}
    for name in ("still", "drifting"):
        probability = numbers(read(tmp_path / name / "truth"), "click")
        logits[name] = np.log(probability / (1 - probability))
    rows = np.arange(24_000) // (24_000 // num_days)
    correlations = [np.corrcoef(*(logits[name][rows == day] for name in logits))[0, 1] for day in range(num_days)]
    assert correlations[0] == pytest.approx(1)
    assert correlations[-1] == pytest.approx(np.cos(radians * (num_days - 1)), abs=0.1)
    assert all(later < earlier for earlier, later in pairwise(correlations))


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
