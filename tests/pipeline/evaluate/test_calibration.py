"""Each bucket of the calibration curve by its definition."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from pipeline.evaluate.calibration import calibration_curve
from pipeline.evaluate.metrics import Predictions

# A few shared values beside random ones, so that ties are common.
probabilities = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))
binary_rows = st.lists(st.tuples(probabilities, st.integers(0, 1)), min_size=1, max_size=60)


def make(prediction: ArrayLike, label: ArrayLike) -> Predictions:
    return Predictions(np.asarray(prediction, dtype=np.float64), np.asarray(label, dtype=np.float64))


@given(binary_rows, st.integers(1, 12))
def test_calibration_buckets_partition_the_rows_and_never_split_a_tie(
    rows: list[tuple[float, int]], num_buckets: int
) -> None:
    prediction, label = (np.array(column) for column in zip(*rows, strict=True))
    curve = calibration_curve(make(prediction, label), num_buckets)
    assert 1 <= len(curve) <= num_buckets
    order = np.argsort(prediction, kind="stable")
    ends = np.cumsum([bucket["rows"] for bucket in curve])
    assert ends[-1] == len(rows)
    for bucket, part in zip(curve, np.split(order, ends[:-1]), strict=True):
        rate = label[part].mean()
        assert bucket["mean_prediction"] == pytest.approx(prediction[part].mean(), abs=1e-12)
        assert bucket["mean_label"] == pytest.approx(rate, abs=1e-12)
        assert 0 <= bucket["low"] <= bucket["mean_label"] <= bucket["high"] <= 1
        assert bucket["low"] < bucket["high"]
        # A Wilson bound is the rate from which the observed one lies 1.96 standard deviations away.
        for bound in (bucket["low"], bucket["high"]):
            variance = bound * (1 - bound) / len(part)
            assert (rate - bound) ** 2 == pytest.approx(NormalDist().inv_cdf(0.975) ** 2 * variance, abs=1e-12)
    assert all(prediction[order[end - 1]] < prediction[order[end]] for end in ends[:-1]), (
        "a bucket ends inside a run of equal predictions"
    )


def test_calibration_buckets_of_distinct_predictions_have_equal_counts() -> None:
    rng = np.random.default_rng(2)
    curve = calibration_curve(make(rng.random(1003), rng.random(1003) < 0.3))
    assert {bucket["rows"] for bucket in curve} == {50, 51}
    assert len(curve) == 20


@pytest.mark.parametrize("label", [0, 1])
def test_the_interval_of_a_bucket_with_one_class_ends_exactly_at_its_rate(label: int) -> None:
    for num_rows in range(1, 40):
        (bucket,) = calibration_curve(make(np.full(num_rows, 0.5), np.full(num_rows, label)))
        assert bucket["high" if label else "low"] == label


def test_there_is_no_calibration_curve_without_finite_rows() -> None:
    assert calibration_curve(make([], [])) == []
    assert calibration_curve(make([np.nan], [1])) == []
