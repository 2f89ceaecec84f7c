"""Dense inputs: moments against numpy, clip, log1p and scaling."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.feature_kinds import NumericFeature
from pipeline.preprocess.columns.numbers import MAX_FLOAT32
from pipeline.preprocess.features.normalize import Moments, clip_and_log, standardise

FLOATS = st.floats(-1e6, 1e6)


@given(st.lists(st.lists(FLOATS)))
def test_merged_moments_are_those_of_all_values(parts: list[list[float]]) -> None:
    merged = Moments()
    for part in parts:
        merged = merged.merge(Moments.of(np.array(part, np.float64)))
    values = np.array([value for part in parts for value in part])
    assert merged.count == len(values)
    if len(values):
        assert math.isclose(merged.mean, values.mean(), rel_tol=1e-9, abs_tol=1e-6)
        assert math.isclose(merged.deviation, values.std(), rel_tol=1e-6, abs_tol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_a_constant_is_left_unscaled_and_becomes_0(count: int) -> None:
    normalization = Moments.of(np.full(count, 0.1)).normalization()
    assert normalization.deviation == 1.0
    if count:
        assert standardise(np.array([0.1]), normalization).tolist() == [0.0]


def test_clip_comes_before_log1p() -> None:
    feature = NumericFeature(name="x", kind="numeric", clip=(0, math.e - 1), log1p=True)
    values = clip_and_log(np.array([-5.0, 0.0, 100.0, np.nan]), feature)
    assert np.allclose(values[:3], [0.0, 0.0, 1.0])
    assert np.isnan(values[3])


@pytest.mark.parametrize(("clip", "expected"), [((0, None), [0, 0, 100]), ((None, 1), [-5, 0, 1])])
def test_a_clip_may_leave_an_end_open(clip: tuple[float | None, float | None], expected: list[float]) -> None:
    feature = NumericFeature(name="x", kind="numeric", clip=clip)
    assert clip_and_log(np.array([-5.0, 0.0, 100.0]), feature).tolist() == expected


@given(FLOATS, st.lists(st.floats(-MAX_FLOAT32, MAX_FLOAT32), min_size=1))
def test_scaled_values_fit_in_float32(value: float, training: list[float]) -> None:
    normalization = Moments.of(np.array(training)).normalization()
    assert np.isfinite(standardise(np.array([value]), normalization).astype(np.float32)).all()
