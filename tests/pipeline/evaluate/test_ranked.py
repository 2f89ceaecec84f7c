"""Exact AUC and average precision from merged runs, of every slice, and where single rows stand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as reference

from pipeline.evaluate.metrics.ranked import (
    Bins,
    Curve,
    RankCounts,
    Ranks,
    measure_rank_range,
    plan_rank_ranges,
    write_run,
)

Array = NDArray[Any]
NUM_SLICES = 4


def rank(
    folder: Path, prediction: Array, signed_weight: Array, slices: Array, *, num_bins: int, num_runs: int, max_rows: int
) -> tuple[Array, int]:
    """What is counted of each slice, [S, 4], and how many ranges were read."""
    bins = Bins.of(prediction[::3], signed_weight[::3] > 0, num_bins)
    runs, counts = [], RankCounts(np.zeros(len(bins), np.int64), np.zeros((NUM_SLICES, 2, len(bins))))
    for number in range(num_runs):
        own = slice(number, None, num_runs)
        runs.append(folder / f"{number}.arrow")
        counts.add(write_run(runs[-1], prediction[own], signed_weight[own], [slices[own]], bins, NUM_SLICES))
    ranges, sums = plan_rank_ranges(runs, bins, counts, max_rows)
    for one in ranges:
        sums = sums + measure_rank_range(one)
    return np.concatenate([sums, counts.sums()], axis=1), len(ranges)


def check(found: Array, prediction: Array, weight: Array) -> None:
    """Against scikit-learn; a negative row has a negative weight."""
    wins, precisions, positives, negatives = found
    label, weight = weight > 0, np.abs(weight)
    assert positives == pytest.approx(weight[label].sum(), abs=1e-9)
    assert negatives == pytest.approx(weight[~label].sum(), abs=1e-9)
    if positives and negatives:
        area = reference.roc_auc_score(label, prediction, sample_weight=weight)
        assert wins / positives / negatives == pytest.approx(area, abs=1e-9)
    if positives:
        precision = reference.average_precision_score(label, prediction, sample_weight=weight)
        assert precisions / positives == pytest.approx(precision, abs=1e-9)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    num_rows=st.integers(1, 200),
    decimals=st.sampled_from([0, 1, 15]),
    num_bins=st.sampled_from([1, 2, 10, 1000]),
    num_runs=st.integers(1, 7),
    max_rows=st.integers(1, 200),
)
def test_merged_runs_give_what_scikit_learn_gives(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    num_rows: int,
    decimals: int,
    num_bins: int,
    num_runs: int,
    max_rows: int,
) -> None:
    rng = np.random.default_rng(seed)
    prediction = rng.random(num_rows).round(decimals)
    weight = rng.choice([-2.0, -1.0, -0.3, 0.0, 0.25, 1.0], num_rows)
    slices = rng.integers(-1, NUM_SLICES, num_rows)
    slices[slices == 0] = -1  # the first one is the whole
    found, _ = rank(
        tmp_path_factory.mktemp("runs"),
        prediction,
        weight,
        slices,
        num_bins=num_bins,
        num_runs=num_runs,
        max_rows=max_rows,
    )
    kept = weight != 0
    check(found[0], prediction[kept], weight[kept])
    for place in range(1, NUM_SLICES):
        own = kept & (slices == place)
        check(found[place], prediction[own], weight[own])


def test_a_value_that_most_rows_have_is_not_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    prediction = np.where(rng.random(6_000) < 0.9, 0.5, rng.random(6_000))
    weight = rng.choice([-1.0, 1.0], 6_000)
    found, num_ranges = rank(tmp_path, prediction, weight, np.full(6_000, -1), num_bins=100, num_runs=3, max_rows=400)
    check(found[0], prediction, weight)
    assert 600 / 400 <= num_ranges <= 4


def test_ranges_hold_no_more_rows_than_they_may(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    prediction, weight = rng.random(5_000), rng.choice([-1.0, 1.0], 5_000)
    bins = Bins.of(prediction, weight > 0, 1_000)
    counts = write_run(tmp_path / "run", prediction, weight, [], bins, 1)
    sizes = [int(counts.rows[first:end].sum()) for first, end in counts.plan(250)]
    assert sum(sizes) == 5_000
    assert max(sizes) <= 250
    assert len(sizes) <= 22


def test_bins_hold_about_as_many_rows_each_and_frequent_values_alone() -> None:
    rng = np.random.default_rng(0)
    sample = np.append(rng.random(10_000), np.full(500, 0.25))
    bins = Bins.of(sample, np.zeros(len(sample), bool), 100)
    place, where = bins.locate(sample)
    counts = np.bincount(place, minlength=len(bins))
    assert 100 <= len(bins) <= 105
    assert (sample[bins.is_atom[place]] == 0.25).all()
    assert counts[~bins.is_atom].max() <= 106
    assert ((where >= 0) & (where <= 1)).all()


@pytest.mark.parametrize("sample", [[], [0.5], [0.5, 0.5], [0.0, 1.0, np.nan]])
def test_bins_of_few_rows_take_any_prediction(sample: list[float]) -> None:
    bins = Bins.of(np.array(sample), np.zeros(len(sample), bool), 10)
    with np.errstate(invalid="ignore"):
        place, where = bins.locate(np.array([-np.inf, -1.0, 0.0, 0.5, 1.0, 2.0, np.inf]))
    assert (np.diff(place) >= 0).all()
    assert place.max() < len(bins)
    assert np.isfinite(where[1:-1]).all()


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), num_bins=st.sampled_from([40, 1000]), decimals=st.sampled_from([1, 15]))
def test_slopes_are_the_derivatives_of_auc_and_average_precision(
    tmp_path_factory: pytest.TempPathFactory, seed: int, num_bins: int, decimals: int
) -> None:
    rng = np.random.default_rng(seed)
    prediction, weight = rng.random(300).round(decimals), rng.choice([0.5, 1.0], 300)
    is_positive = rng.random(300) < prediction / 2 + 0.1
    bins = Bins.of(prediction, is_positive, num_bins)
    place, where = bins.locate(prediction)
    signed_weight = np.where(is_positive, weight, -weight)
    counts = write_run(tmp_path_factory.mktemp("run") / "run", prediction, signed_weight, [], bins, 1)
    ranks = Ranks(place, where, Curve(counts.weights[0], bins.is_atom))
    if_positive, if_negative = ranks.precision_slopes()
    tolerance = 1e-9 if bins.is_atom[place].all() else 3 / num_bins
    for row in rng.integers(0, 300, 12):
        others = weight.copy()
        others[row] = 0
        below, above = others * (prediction < prediction[row]), others * (prediction > prediction[row])
        ties = others * (prediction == prediction[row]) + np.where(np.arange(300) == row, weight, 0)
        share = (below + ties / 2) @ ~is_positive / (weight @ ~is_positive)
        assert ranks.negatives_below()[row] == pytest.approx(share, abs=tolerance)
        share = (above + ties / 2) @ is_positive / (weight @ is_positive)
        assert ranks.positives_above()[row] == pytest.approx(share, abs=tolerance)
        slope = slope_of_precisions(prediction, is_positive, weight, row)
        expected = if_positive[row] if is_positive[row] else if_negative[row]
        # Precision changes with each of the first rows, which share a bin or two where bins hold several rows.
        is_in_first_bins = (prediction > prediction[row]).sum() < 12
        in_bins = 0 if tolerance == 1e-9 else 1.0 if is_in_first_bins else 0.1
        assert expected == pytest.approx(slope, abs=1e-5 + in_bins)


def slope_of_precisions(prediction: Array, is_positive: Array, weight: Array, row: int) -> float:
    """How the weighted sum of the positives' precisions grows with the weight of a row, by two nearby weights."""
    sums = []
    for step in (-1e-5, 1e-5):
        changed = weight.copy()
        changed[row] += step
        average = reference.average_precision_score(is_positive, prediction, sample_weight=changed)
        sums.append(average * changed[is_positive].sum())
    slope: float = (sums[1] - sums[0]) / 2e-5
    return slope
