"""Each metric by hand, its best value, and what the catalogue says of it."""

import math

import numpy as np
import pytest
from fabricated_parts import measure_rows
from measured_values import close, values_of

from pipeline.evaluate.metrics.catalogue import (
    MAIN_METRIC,
    METRICS,
    SLICE_METRICS,
    definition_of,
    explain,
    name_in_report,
)
from pipeline.evaluate.metrics.rows import MIN_PROBABILITY


def test_binary_metrics_of_four_rows_by_hand() -> None:
    user, request = ["u", "u", "u", "v"], ["r", "r", "s", "t"]
    measured = values_of([0.8, 0.4, 0.4, 0.2], [1, 1, 0, 0], user=user, request=request, k=1)
    assert measured.pop("request_gauc") is None
    loss = -(math.log(0.8) + math.log(0.4) + math.log(0.6) + math.log(0.8)) / 4
    assert measured == close(
        {
            "auc": 3.5 / 4,
            "average_precision": (1 + 2 / 3) / 2,
            "log_loss": loss,
            "normalised_entropy": loss / math.log(2),
            "calibration": 1.8 / 2,
            "calibration_error": (0.2 + 0.2 + abs(0.8 - 1)) / 4,
            "gauc": 1.5 / 2,
            "gauc_unweighted": 1.5 / 2,
            "ndcg@1": 1.0,
            "recall@1": 0.5,
            "mrr": 1.0,
        }
    )


def test_regression_metrics_of_three_rows_by_hand() -> None:
    measured = values_of([1.0, 3.0, 5.0], [1.0, 2.0, 6.0], kind="regression")
    expected = {"mae": 2 / 3, "rmse": math.sqrt(2 / 3), "r2": 1 - 2 / 14, "calibration": 1.0, "xauc": 1.0}
    assert measured == close(expected)


def test_multiclass_metrics_of_four_rows_by_hand() -> None:
    prediction = [[0.5, 0.3, 0.2], [0.2, 0.6, 0.2], [0.4, 0.4, 0.2], [0.1, 0.2, 0.7]]
    measured = values_of(prediction, [0, 1, 1, 2], kind="multiclass")
    loss = -(math.log(0.5) + math.log(0.6) + math.log(0.4) + math.log(0.7)) / 4
    entropy = -(0.5 * math.log(0.25) + 0.5 * math.log(0.5))
    assert measured == close({"auc": 1.0, "log_loss": loss, "normalised_entropy": loss / entropy, "accuracy": 0.75})


@pytest.mark.parametrize("constant", [0.0, 0.1, 1.0])
def test_the_auc_of_a_constant_predictor_is_one_half(constant: float) -> None:
    rng = np.random.default_rng(0)
    label, users = rng.random(10_007) < 0.01, rng.integers(0, 50, 10_007).tolist()
    measured = values_of(np.full(10_007, constant), label, user=users, request=users, max_rows=1_000)
    assert measured["auc"] == 0.5
    assert measured["average_precision"] == close(label.mean())
    for name in ("gauc", "gauc_unweighted", "request_gauc"):
        assert measured[name] == close(0.5, abs=1e-15)


def test_log_loss_of_a_saturated_wrong_prediction_is_finite() -> None:
    assert values_of([1.0], [0])["log_loss"] == close(-math.log(MIN_PROBABILITY), rel=1e-8)
    impossible = values_of([[1.0, 0.0, 0.0]], [1], kind="multiclass")
    assert impossible["log_loss"] == close(-math.log(MIN_PROBABILITY), rel=1e-8)


def test_of_equally_probable_classes_the_first_counts() -> None:
    assert values_of([[0.4, 0.4, 0.2]] * 2, [0, 1], kind="multiclass")["accuracy"] == 0.5


def test_best_is_the_metric_of_the_truth_and_the_fraction_counts_from_chance() -> None:
    label, truth = [1, 0, 1, 0], [0.9, 0.2, 0.8, 0.1]
    measured = measure_rows("binary", [0.9, 0.8, 0.7, 0.1], label, truth=truth)
    auc, loss = measured["auc"], measured["log_loss"]
    assert (auc["value"], auc["best"], auc["fraction_of_best"]) == (0.75, 1.0, 0.5)
    assert (loss["best"], loss["fraction_of_best"]) == (close(values_of(truth, label)["log_loss"]), None)
    without = measure_rows("binary", truth, label)
    assert all(cell["best"] is None for cell in without.values())
    worst = measure_rows("binary", [0.9, 0.1], [1, 0], truth=[0.5, 0.5])["auc"]
    assert (worst["value"], worst["best"], worst["fraction_of_best"]) == (1.0, 0.5, None)
    broken = measure_rows("binary", [math.nan, 0.1], [1, 0], truth=[0.7, 0.2])["auc"]
    assert (broken["value"], broken["best"]) == (None, 1.0)


def test_the_truth_of_each_class_gives_the_best_values() -> None:
    truth = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]
    prediction = [[0.4, 0.3, 0.3], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]]
    measured = measure_rows("multiclass", prediction, [0, 1, 2], truth=truth)
    # The row of class 0 lies between the two others, that of class 1 ties with both, and that of class 2 is above both.
    assert measured["auc"]["value"] == close((0.5 + 0.5 + 1) / 3)
    assert measured["auc"]["best"] == 1.0
    assert measured["auc"]["fraction_of_best"] == close(1 / 3)
    assert measured["log_loss"]["best"] == close(-math.log(0.8))


def test_every_metric_explains_itself_in_one_sentence() -> None:
    for kind, metrics in METRICS.items():
        for name in metrics:
            sentence = explain(kind, name_in_report(name, 7))
            assert sentence[0].isupper() or sentence.startswith("-")
            assert sentence.endswith(".")
    assert explain("binary", "lift") == explain("ranking", "auc") == ""
    assert definition_of("binary", "ndcg@50") is METRICS["binary"]["ndcg@k"]


def test_the_metrics_of_slices_are_metrics_and_the_main_one_has_a_direction() -> None:
    assert SLICE_METRICS.keys() == MAIN_METRIC.keys() == METRICS.keys()
    for kind, names in SLICE_METRICS.items():
        assert set(names) <= set(METRICS[kind])
        assert METRICS[kind][MAIN_METRIC[kind]].better in ("higher", "lower")
        assert all(METRICS[kind][name].key is None and not METRICS[kind][name].of_sample for name in names)
