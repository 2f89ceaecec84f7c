"""The simulated feed: its labels follow the written truth, and both scatter and drift as a feed's do."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from simulated_feed import BINARY_TASKS, NUM_DAYS, NUM_ROWS, Floats, numbers, read, simulate_feed

from pipeline.simulate.feed import Feed
from pipeline.simulate.run import simulate
from pipeline.simulate.truth import make_truth
from pipeline.simulate.world import make_world


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_feed(tmp_path_factory.mktemp("feed"))


def area_under_curve(labels: Floats, scores: Floats) -> float:
    """Mann-Whitney; scores without ties."""
    ranks = np.argsort(np.argsort(scores)) + 1
    num_positive = labels.sum()
    wins = ranks[labels == 1].sum() - num_positive * (num_positive + 1) / 2
    return float(wins / (num_positive * (len(labels) - num_positive)))


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
