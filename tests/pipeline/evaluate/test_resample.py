"""Each unit is counted Poisson(1) times, the same way everywhere, and what follows from the replicates is right."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.evaluate.metrics.resample import Estimate, adjust_p_values, around, count_units, mix, p_value, spread

HASHES = mix(np.arange(1, 100_001, dtype=np.uint64))


def test_counts_are_poisson_with_mean_one() -> None:
    counts = count_units(HASHES, 20)[:, 1:].ravel()
    observed = np.bincount(np.minimum(counts, 6), minlength=7)
    chances = stats.poisson.pmf(np.arange(6), 1)
    expected = len(counts) * np.append(chances, 1 - chances.sum())
    assert stats.chisquare(observed, expected).pvalue > 1e-4
    assert counts.mean() == pytest.approx(1, abs=4 / math.sqrt(len(counts)))


def test_counts_of_neighbouring_replicates_and_units_are_independent() -> None:
    counts = count_units(HASHES, 9)[:, 1:].astype(np.float64)
    between_replicates = np.corrcoef(counts.T) - np.eye(9)
    between_units = np.corrcoef(counts[:-1, 0], counts[1:, 0])[0, 1]
    assert np.abs(between_replicates).max() < 5 / math.sqrt(len(HASHES))
    assert abs(between_units) < 5 / math.sqrt(len(HASHES))


def test_a_units_counts_depend_on_nothing_but_the_unit() -> None:
    everything = count_units(HASHES[:10_000], 33)
    assert (everything[:, 0] == 1).all()
    some = np.array([9_999, 3, 5_000])
    assert (count_units(HASHES[some], 33) == everything[some]).all()
    assert (count_units(HASHES[some], 5) == everything[some, :6]).all(), "fewer replicates are the first ones"
    assert count_units(HASHES[:3], 0).tolist() == [[1]] * 3


def test_an_interval_is_two_standard_deviations_wide_on_both_sides() -> None:
    replicates = np.array([0.4, 0.5, 0.6, 0.5])
    interval = Estimate(0.7, None, replicates).interval()
    assert interval is not None
    half_width = stats.norm.ppf(0.975) * replicates.std(ddof=1)
    assert interval == pytest.approx((0.7 - half_width, 0.7 + half_width), abs=1e-12)
    assert Estimate(None, "there are no rows", replicates).interval() is None


def test_an_interval_ends_where_no_value_can_be() -> None:
    replicates = np.array([0.5, 1.0, 0.7, 0.8])
    unbounded = Estimate(0.9, None, replicates).interval()
    bounded = Estimate(0.9, None, replicates, (0.0, 1.0)).interval()
    assert unbounded is not None
    assert unbounded.high > 1.0
    assert bounded == (unbounded.low, 1.0)


def test_there_is_no_interval_where_many_replicates_are_undefined() -> None:
    assert spread(np.array([0.1, 0.2] * 45 + [np.nan] * 10)) is not None
    assert spread(np.array([0.1, 0.2] * 44 + [np.nan] * 12)) is None
    assert around(0.5, np.zeros(0)) is None
    assert p_value(0.1, np.full(10, np.nan)) is None


@given(st.floats(-1, 1), st.integers(0, 100))
def test_a_p_value_is_that_of_the_normal_distribution(difference: float, seed: int) -> None:
    replicates = np.random.default_rng(seed).normal(difference, 0.3, 50)
    expected = 2 * stats.norm.sf(abs(difference) / replicates.std(ddof=1))
    assert p_value(difference, replicates) == pytest.approx(expected, abs=1e-12)


def test_models_that_are_equal_everywhere_have_a_p_value_of_one() -> None:
    assert p_value(0.0, np.zeros(10)) == 1
    assert p_value(0.1, np.full(10, 0.1)) is None, "one unit alone says nothing of chance"


@given(st.lists(st.floats(0, 1), max_size=30))
def test_p_values_are_adjusted_as_scipy_does(p_values: list[float]) -> None:
    expected = stats.false_discovery_control(p_values) if p_values else []
    assert adjust_p_values(p_values) == pytest.approx(list(expected), abs=1e-12)
