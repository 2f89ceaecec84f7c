"""Each metric by hand, against scikit-learn, and against a naive second implementation."""

import itertools
import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from sklearn import metrics as reference

from pipeline.evaluate.metrics import (
    BINARY_METRICS,
    MIN_PROBABILITY,
    Predictions,
    auc,
    binary_metrics,
    calibration_curve,
    gauc,
    regression_metrics,
)

# A few shared values beside random ones, so that ties are common.
probabilities = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))
# Multiples of 1/16: sums are exact, so that the two implementations compared round alike.
values = st.integers(-16_000, 16_000).map(lambda n: n / 16)
binary_rows = st.lists(st.tuples(probabilities, st.integers(0, 1), st.integers(-3, 3)), min_size=1, max_size=60)
value_rows = st.lists(st.tuples(values, values), min_size=1, max_size=60)


def make(prediction: ArrayLike, label: ArrayLike, group: Any = None, truth: ArrayLike | None = None) -> Predictions:
    return Predictions(
        np.asarray(prediction, dtype=np.float64),
        np.asarray(label, dtype=np.float64),
        None if group is None else np.asarray(group),
        None if truth is None else np.asarray(truth, dtype=np.float64),
    )


def count_wins(prediction: NDArray[Any], label: NDArray[Any]) -> float | None:
    """AUC as its definition says: over all pairs of a positive and a negative row."""
    pairs = list(itertools.product(prediction[label == 1], prediction[label == 0]))
    return sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs) if pairs else None


def values_of(p: Predictions, kind: str = "binary") -> dict[str, float | None]:
    measured = binary_metrics(p) if kind == "binary" else regression_metrics(p)
    return {name: metric.value for name, metric in measured.items()}


def test_binary_metrics_of_four_rows_by_hand() -> None:
    measured = values_of(make([0.8, 0.4, 0.4, 0.2], [1, 1, 0, 0], ["u", "u", "u", "v"]))
    loss = -(math.log(0.8) + math.log(0.4) + math.log(0.6) + math.log(0.8)) / 4
    assert measured == pytest.approx(
        {
            "auc": 3.5 / 4,
            "log_loss": loss,
            "normalised_entropy": loss / math.log(2),
            "calibration": 1.8 / 2,
            "gauc": 1.5 / 2,
        },
        abs=1e-12,
    )


def test_regression_metrics_of_three_rows_by_hand() -> None:
    measured = values_of(make([1.0, 3.0, 5.0], [1.0, 2.0, 6.0]), "regression")
    assert measured == pytest.approx(
        {"mae": 2 / 3, "rmse": math.sqrt(2 / 3), "r2": 1 - 2 / 14, "calibration": 1.0}, abs=1e-12
    )


@given(binary_rows)
def test_binary_metrics_equal_scikit_learn(rows: list[tuple[float, int, int]]) -> None:
    prediction, label, _ = (np.array(column) for column in zip(*rows, strict=True))
    measured = values_of(make(prediction, label))
    clipped = np.clip(prediction, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    loss = reference.log_loss(label, clipped, labels=[0, 1])
    assert measured["log_loss"] == pytest.approx(loss, abs=1e-9)
    if 0 < label.sum() < len(label):
        assert measured["auc"] == pytest.approx(reference.roc_auc_score(label, prediction), abs=1e-9)
        base_rate = np.full(len(label), label.mean())
        entropy = reference.log_loss(label, base_rate, labels=[0, 1])
        assert measured["normalised_entropy"] == pytest.approx(loss / entropy, rel=1e-9)
        assert measured["calibration"] == pytest.approx(math.fsum(prediction) / label.sum(), abs=1e-9)
    else:
        assert measured["auc"] is None
        assert measured["normalised_entropy"] is None


@given(binary_rows)
def test_gauc_equals_a_loop_over_groups(rows: list[tuple[float, int, int]]) -> None:
    prediction, label, group = (np.array(column) for column in zip(*rows, strict=True))
    wins = [(count_wins(prediction[group == g], label[group == g]), int((group == g).sum())) for g in set(group)]
    kept = [(value, weight) for value, weight in wins if value is not None]
    expected = sum(v * w for v, w in kept) / sum(w for _, w in kept) if kept else None
    for keys in (group, np.array([f"user {g}" for g in group]), np.array([f"user {g}" for g in group], dtype=object)):
        assert values_of(make(prediction, label, keys))["gauc"] == pytest.approx(expected, abs=1e-9)


@given(value_rows)
def test_regression_metrics_equal_scikit_learn(rows: list[tuple[float, float]]) -> None:
    prediction, label = (np.array(column) for column in zip(*rows, strict=True))
    measured = values_of(make(prediction, label), "regression")
    assert measured["mae"] == pytest.approx(reference.mean_absolute_error(label, prediction), rel=1e-9)
    assert measured["rmse"] == pytest.approx(math.sqrt(reference.mean_squared_error(label, prediction)), rel=1e-9)
    if len(set(label)) > 1:
        assert measured["r2"] == pytest.approx(reference.r2_score(label, prediction), rel=1e-9, abs=1e-9)
    else:
        assert measured["r2"] is None
    total = math.fsum(label)
    assert measured["calibration"] == (pytest.approx(math.fsum(prediction) / total, rel=1e-9) if total else None)


@given(binary_rows, st.randoms())
def test_metrics_do_not_depend_on_the_order_of_rows(rows: list[tuple[float, int, int]], random: Any) -> None:
    before = values_of(make(*zip(*rows, strict=True)))
    random.shuffle(rows)
    assert values_of(make(*zip(*rows, strict=True))) == pytest.approx(before, abs=1e-9)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1.0])
def test_auc_of_a_constant_predictor_is_one_half(constant: float) -> None:
    rng = np.random.default_rng(0)
    label, group = rng.random(10_007) < 0.01, rng.integers(0, 50, 10_007)
    p = make(np.full(10_007, constant), label, group)
    assert auc(p) == 0.5
    assert gauc(p) == pytest.approx(0.5, abs=1e-15)


def test_auc_of_many_rows_equals_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    prediction, label = rng.random(300_000).round(4), rng.random(300_000) < 0.02
    assert auc(make(prediction, label)) == pytest.approx(reference.roc_auc_score(label, prediction), abs=1e-12)


def test_rows_without_a_user_are_left_out_of_gauc() -> None:
    group = np.array(["u", "u", None, None], dtype=object)
    assert gauc(make([0.9, 0.1, 0.1, 0.9], [1, 0, 1, 0], group)) == 1.0


def test_log_loss_of_a_saturated_wrong_prediction_is_finite() -> None:
    assert values_of(make([1.0], [0]))["log_loss"] == pytest.approx(-math.log(MIN_PROBABILITY))


@pytest.mark.parametrize(
    ("p", "reasons"),
    [
        (make([], []), dict.fromkeys(BINARY_METRICS, "there are no rows")),
        (
            make([0.5, 0.1], [0, 0], ["u", "v"]),
            {
                "auc": "all labels are 0",
                "normalised_entropy": "all labels are 0",
                "calibration": "the labels sum to 0",
                "gauc": "no user has both classes",
            },
        ),
        (
            make([0.5], [1]),
            {
                "auc": "all labels are 1",
                "normalised_entropy": "all labels are 1",
                "gauc": "the rows have no user key",
            },
        ),
        (
            make([0.5, 0.1], [1, 0], np.array([None, None], dtype=object)),
            {"gauc": "no user has both classes"},
        ),
        (
            make([0.5, math.nan, math.inf], [0, 1, 1], [1, 1, 1]),
            dict.fromkeys(BINARY_METRICS, "2 of 3 predictions are not finite"),
        ),
    ],
)
def test_an_undefined_binary_metric_is_none_with_a_reason(p: Predictions, reasons: dict[str, str]) -> None:
    measured = binary_metrics(p)
    assert {name: metric.reason for name, metric in measured.items() if metric.value is None} == reasons
    assert all(metric.reason is None for metric in measured.values() if metric.value is not None)


def test_an_undefined_regression_metric_is_none_with_a_reason() -> None:
    measured = regression_metrics(make([0.0, 0.0, 0.0], [0.1, 0.1, 0.1]))
    assert measured["r2"].value is None
    assert measured["r2"].reason == "all labels are equal"
    assert all(metric.reason == "there are no rows" for metric in regression_metrics(make([], [])).values())
    overflowing = regression_metrics(make([1e300, -1e300], [0.0, 1.0]))
    assert overflowing["rmse"].value is None
    assert overflowing["rmse"].reason == "the values are too large or too small to compute it"


def test_best_is_the_metric_of_the_truth_and_the_fraction_counts_from_chance() -> None:
    label, truth = [1, 0, 1, 0], [0.9, 0.2, 0.8, 0.1]
    measured = binary_metrics(make([0.9, 0.8, 0.7, 0.1], label, truth=truth))
    assert (measured["auc"].value, measured["auc"].best, measured["auc"].fraction_of_best) == (0.75, 1.0, 0.5)
    assert measured["log_loss"].best == values_of(make(truth, label))["log_loss"]
    assert measured["log_loss"].fraction_of_best is None
    assert all(metric.best is None for metric in binary_metrics(make(truth, label)).values())


def test_the_fraction_is_none_where_the_truth_is_no_better_than_chance() -> None:
    measured = binary_metrics(make([0.9, 0.1], [1, 0], truth=[0.5, 0.5]))["auc"]
    assert (measured.value, measured.best, measured.fraction_of_best) == (1.0, 0.5, None)


def test_best_is_known_even_where_the_predictions_are_not_finite() -> None:
    measured = binary_metrics(make([math.nan, 0.1], [1, 0], truth=[0.7, 0.2]))["auc"]
    assert (measured.value, measured.best) == (None, 1.0)


@pytest.mark.parametrize(
    "columns",
    [
        {"prediction": [0.5], "label": [0, 1]},
        {"prediction": [0.5], "label": [1], "group": ["u", "v"]},
        {"prediction": [0.5], "label": [math.nan]},
        {"prediction": [0.5], "label": [1], "truth": [math.nan]},
    ],
)
def test_rows_that_do_not_fit_together_are_refused(columns: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"label|group|truth"):
        make(**columns)


def test_a_binary_label_other_than_0_and_1_is_refused() -> None:
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        binary_metrics(make([0.5], [0.5]))


@given(binary_rows, st.integers(1, 12))
def test_calibration_buckets_partition_the_rows_and_never_split_a_tie(
    rows: list[tuple[float, int, int]], num_buckets: int
) -> None:
    prediction, label, _ = (np.array(column) for column in zip(*rows, strict=True))
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
    assert calibration_curve(make([math.nan], [1])) == []
