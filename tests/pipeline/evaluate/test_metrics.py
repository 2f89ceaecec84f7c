"""Each metric by hand, against scikit-learn, and against a naive second implementation."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from sklearn import metrics as reference

from pipeline.evaluate.metrics import METRICS, MIN_PROBABILITY, Predictions, accuracy, auc, compute_metrics, gauc

# A few shared values beside random ones, so that ties are common.
probabilities = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))
# Multiples of 1/16: sums are exact, so that the two implementations compared round alike.
values = st.integers(-16_000, 16_000).map(lambda n: n / 16)
binary_rows = st.lists(st.tuples(probabilities, st.integers(0, 1), st.integers(-3, 3)), min_size=1, max_size=60)
value_rows = st.lists(st.tuples(values, values), min_size=1, max_size=60)
odds = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))
class_rows = st.lists(st.tuples(odds, st.integers(0, 2)), min_size=1, max_size=60)


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
    return {name: metric.value for name, metric in compute_metrics(kind, p).items()}


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
        (make([], []), dict.fromkeys(METRICS["binary"], "there are no rows")),
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
            dict.fromkeys(METRICS["binary"], "2 of 3 predictions are not finite"),
        ),
    ],
)
def test_an_undefined_binary_metric_is_none_with_a_reason(p: Predictions, reasons: dict[str, str]) -> None:
    measured = compute_metrics("binary", p)
    assert {name: metric.reason for name, metric in measured.items() if metric.value is None} == reasons
    assert all(metric.reason is None for metric in measured.values() if metric.value is not None)


def test_an_undefined_regression_metric_is_none_with_a_reason() -> None:
    measured = compute_metrics("regression", make([0.0, 0.0, 0.0], [0.1, 0.1, 0.1]))
    assert measured["r2"].value is None
    assert measured["r2"].reason == "all labels are equal"
    assert all(metric.reason == "there are no rows" for metric in compute_metrics("regression", make([], [])).values())
    overflowing = compute_metrics("regression", make([1e300, -1e300], [0.0, 1.0]))
    assert overflowing["rmse"].value is None
    assert overflowing["rmse"].reason == "the values are too large or too small to compute it"


def test_best_is_the_metric_of_the_truth_and_the_fraction_counts_from_chance() -> None:
    label, truth = [1, 0, 1, 0], [0.9, 0.2, 0.8, 0.1]
    measured = compute_metrics("binary", make([0.9, 0.8, 0.7, 0.1], label, truth=truth))
    assert (measured["auc"].value, measured["auc"].best, measured["auc"].fraction_of_best) == (0.75, 1.0, 0.5)
    assert measured["log_loss"].best == values_of(make(truth, label))["log_loss"]
    assert measured["log_loss"].fraction_of_best is None
    assert all(metric.best is None for metric in compute_metrics("binary", make(truth, label)).values())


def test_the_fraction_is_none_where_the_truth_is_no_better_than_chance() -> None:
    measured = compute_metrics("binary", make([0.9, 0.1], [1, 0], truth=[0.5, 0.5]))["auc"]
    assert (measured.value, measured.best, measured.fraction_of_best) == (1.0, 0.5, None)


def test_best_is_known_even_where_the_predictions_are_not_finite() -> None:
    measured = compute_metrics("binary", make([math.nan, 0.1], [1, 0], truth=[0.7, 0.2]))["auc"]
    assert (measured.value, measured.best) == (None, 1.0)


@pytest.mark.parametrize(
    "columns",
    [
        {"prediction": [0.5], "label": [0, 1]},
        {"prediction": [0.5], "label": [1], "group": ["u", "v"]},
        {"prediction": [0.5], "label": [math.nan]},
        {"prediction": [0.5], "label": [1], "truth": [math.nan]},
        {"prediction": [[0.5, 0.5]], "label": [[1, 0]]},
        {"prediction": [[0.5, 0.5]], "label": [1], "truth": [0.5]},
    ],
)
def test_rows_that_do_not_fit_together_are_refused(columns: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"label|group|truth"):
        make(**columns)


def test_a_binary_label_other_than_0_and_1_is_refused() -> None:
    with pytest.raises(ValueError, match="a binary task has a label that is not one of 0 to 1"):
        compute_metrics("binary", make([0.5], [0.5]))


def test_multiclass_metrics_of_four_rows_by_hand() -> None:
    prediction = [[0.5, 0.3, 0.2], [0.2, 0.6, 0.2], [0.4, 0.4, 0.2], [0.1, 0.2, 0.7]]
    measured = values_of(make(prediction, [0, 1, 1, 2]), "multiclass")
    loss = -(math.log(0.5) + math.log(0.6) + math.log(0.4) + math.log(0.7)) / 4
    entropy = -(0.5 * math.log(0.25) + 0.5 * math.log(0.5))
    expected = {"auc": 1.0, "log_loss": loss, "normalised_entropy": loss / entropy, "accuracy": 0.75}
    assert measured == pytest.approx(expected, abs=1e-12)


@given(class_rows)
def test_multiclass_metrics_equal_scikit_learn(rows: list[tuple[tuple[int, int, int], int]]) -> None:
    odds, label = (np.array(column) for column in zip(*rows, strict=True))
    prediction = odds / odds.sum(axis=1, keepdims=True)
    measured = values_of(make(prediction, label), "multiclass")
    loss = reference.log_loss(label, prediction, labels=[0, 1, 2])
    assert measured["log_loss"] == pytest.approx(loss, abs=1e-9)
    assert measured["accuracy"] == reference.accuracy_score(label, prediction.argmax(axis=1))
    occurring = np.unique(label)
    if len(occurring) == 1:
        assert measured["auc"] is None
        assert measured["normalised_entropy"] is None
        return
    areas = [reference.roc_auc_score(label == place, prediction[:, place]) for place in occurring]
    assert measured["auc"] == pytest.approx(np.mean(areas), abs=1e-9)
    if len(occurring) == 3:
        assert measured["auc"] == pytest.approx(reference.roc_auc_score(label, prediction, multi_class="ovr"), abs=1e-9)
    frequencies = np.tile(np.bincount(label, minlength=3) / len(label), (len(label), 1))
    entropy = reference.log_loss(label, frequencies, labels=[0, 1, 2])
    assert measured["normalised_entropy"] == pytest.approx(loss / entropy, rel=1e-9)


@given(binary_rows)
def test_two_classes_measure_as_a_binary_task_does(rows: list[tuple[float, int, int]]) -> None:
    prediction, label, _ = (np.array(column) for column in zip(*rows, strict=True))
    binary = values_of(make(prediction, label))
    classes = values_of(make(np.stack([1 - prediction, prediction], axis=1), label), "multiclass")
    for name in ("log_loss", "normalised_entropy"):
        assert classes[name] == pytest.approx(binary[name], abs=1e-9)
    # 1 - q rounds, which can make a tie of two tiny predictions.
    if np.unique(1 - prediction).size == np.unique(prediction).size:
        assert classes["auc"] == pytest.approx(binary["auc"], abs=1e-9)


def test_the_multiclass_auc_leaves_out_a_class_that_does_not_occur() -> None:
    prediction = [[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.1, 0.8, 0.1], [0.7, 0.2, 0.1]]
    assert values_of(make(prediction, [0, 0, 1, 1]), "multiclass")["auc"] == 0.5


def test_of_equally_probable_classes_the_first_counts() -> None:
    assert accuracy(make([[0.4, 0.4, 0.2]] * 2, [0, 1])) == 0.5


def test_the_loss_of_an_impossible_class_is_finite() -> None:
    assert values_of(make([[1.0, 0.0]], [1]), "multiclass")["log_loss"] == pytest.approx(-math.log(MIN_PROBABILITY))


def test_an_undefined_multiclass_metric_is_none_with_a_reason() -> None:
    measured = compute_metrics("multiclass", make([[0.2, 0.3, 0.5]] * 2, [2, 2]))
    reasons = {name: metric.reason for name, metric in measured.items() if metric.value is None}
    assert reasons == {"auc": "all labels are 2", "normalised_entropy": "all labels are 2"}
    empty = compute_metrics("multiclass", make(np.empty((0, 3)), []))
    assert {metric.reason for metric in empty.values()} == {"there are no rows"}
    broken = compute_metrics("multiclass", make([[math.nan, math.nan], [0.5, 0.5]], [0, 1]))
    assert {metric.reason for metric in broken.values()} == {"1 of 2 predictions are not finite"}


def test_the_truth_of_each_class_gives_the_best_values() -> None:
    truth = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]
    prediction = [[0.4, 0.3, 0.3], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]]
    measured = compute_metrics("multiclass", make(prediction, [0, 1, 2], truth=truth))
    # The row of class 0 lies between the two others, that of class 1 ties with both, and that of class 2 is above both.
    assert measured["auc"].value == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert measured["auc"].best == 1.0
    assert measured["auc"].fraction_of_best == pytest.approx(1 / 3)
    assert measured["log_loss"].best == pytest.approx(-math.log(0.8))


@pytest.mark.parametrize("label", [-1, 0.5, 3])
def test_a_label_that_is_not_the_place_of_a_class_is_refused(label: float) -> None:
    with pytest.raises(ValueError, match="a multiclass task has a label that is not one of 0 to 2"):
        compute_metrics("multiclass", make([[0.2, 0.3, 0.5]], [label]))


@given(value_rows)
def test_a_watch_time_is_measured_as_a_regression_is(rows: list[tuple[float, float]]) -> None:
    p = make(*zip(*rows, strict=True))
    assert compute_metrics("watch_time", p) == compute_metrics("regression", p)
