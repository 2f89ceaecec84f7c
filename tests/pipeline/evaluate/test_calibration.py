"""Each bucket of the calibration curve by its definition."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from fabricated_parts import TASKS, make_columns, measure_columns
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluate.metrics.resample import Z_95

# A few shared values beside random ones, so that ties are common.
probabilities = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))
binary_rows = st.lists(st.tuples(probabilities, st.integers(0, 1)), min_size=1, max_size=60)


def curve_of(prediction: Any, label: Any, **options: Any) -> Sequence[dict[str, Any]]:
    columns = make_columns(prediction, label, **options)
    (task,) = measure_columns(columns, [TASKS["binary"]], num_replicates=100).tasks
    curve: Sequence[dict[str, Any]] = task["calibration_curve"]
    return curve


def effective_rows(rate: float, bound: float) -> float:
    """The number of rows for which a Wilson bound, from which the rate lies 1.96 deviations away, is this one."""
    return Z_95**2 * bound * (1 - bound) / (rate - bound) ** 2


@settings(max_examples=40)
@given(binary_rows)
def test_calibration_buckets_partition_the_rows_and_never_split_a_tie(rows: list[tuple[float, int]]) -> None:
    prediction, label = (np.array(column) for column in zip(*rows, strict=True))
    curve = curve_of(prediction, label)
    assert 1 <= len(curve) <= 20
    order = np.argsort(prediction, kind="stable")
    ends = np.cumsum([bucket["rows"] for bucket in curve])
    assert ends[-1] == len(rows)
    for bucket, part in zip(curve, np.split(order, ends[:-1]), strict=True):
        rate = label[part].mean()
        assert bucket["mean_prediction"] == pytest.approx(prediction[part].mean(), abs=1e-12)
        assert bucket["mean_label"] == pytest.approx(rate, abs=1e-12)
        assert 0 <= bucket["low"] <= bucket["mean_label"] <= bucket["high"] <= 1
        assert bucket["low"] < bucket["high"]
        if 0 < rate < 1:
            num_rows = effective_rows(rate, bucket["low"])
            assert num_rows == pytest.approx(effective_rows(rate, bucket["high"]), rel=1e-6)
            assert num_rows < len(part) * (1 + 1e-9)
    assert all(prediction[order[end - 1]] < prediction[order[end]] for end in ends[:-1]), (
        "a bucket ends inside a run of equal predictions"
    )


def test_calibration_buckets_of_distinct_predictions_have_equal_counts() -> None:
    rng = np.random.default_rng(2)
    curve = curve_of(rng.random(1003), rng.random(1003) < 0.3)
    assert {bucket["rows"] for bucket in curve} == {50, 51}
    assert len(curve) == 20


@pytest.mark.parametrize("label", [0, 1])
def test_the_interval_of_a_bucket_with_one_class_ends_exactly_at_its_rate(label: int) -> None:
    for num_rows in range(1, 40):
        (bucket,) = curve_of(np.full(num_rows, 0.5), np.full(num_rows, label))
        assert bucket["high" if label else "low"] == label


def test_rows_of_a_user_who_are_alike_count_as_fewer_rows() -> None:
    rng = np.random.default_rng(0)
    user = rng.integers(0, 500, 10_000)
    label = (rng.random(500) < 0.4)[user]
    independent, alike = (
        effective_rows(curve[0]["mean_label"], curve[0]["high"])
        for curve in (curve_of(np.full(10_000, 0.4), label), curve_of(np.full(10_000, 0.4), label, user=user.tolist()))
    )
    assert 7_000 < independent <= 10_000.01
    assert 300 < alike < 700


def test_weights_move_the_means_of_a_bucket_and_not_its_rows() -> None:
    (bucket,) = curve_of([0.2] * 3, [1, 0, 0], weight=[2, 1, 1])
    assert (bucket["rows"], bucket["mean_label"]) == (3, 0.5)


def test_there_is_no_calibration_curve_without_finite_rows() -> None:
    assert curve_of([], []) == []
    assert curve_of([np.nan, 0.5], [1, 0]) == []
