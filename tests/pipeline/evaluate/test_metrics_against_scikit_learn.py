"""Each metric that scikit-learn has too against it, and metrics against each other."""

import math
import warnings
from typing import Any

import numpy as np
from hypothesis import given, settings
from measured_values import binary_rows, class_rows, close, value_rows, values_of
from sklearn import metrics as reference

from pipeline.evaluate.metrics.rows import MIN_PROBABILITY


@settings(max_examples=50)
@given(binary_rows)
def test_binary_metrics_equal_scikit_learn(rows: list[tuple[float, int, float]]) -> None:
    prediction, label, weight = (np.array(column) for column in zip(*rows, strict=True))
    measured = values_of(prediction, label, weight=weight)
    if not weight.sum():
        assert set(measured.values()) == {None}
        return
    kept = weight > 0  # scikit-learn looks for classes among rows without weight too
    prediction, label, weight = prediction[kept], label[kept], weight[kept]
    clipped = np.clip(prediction, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    loss = reference.log_loss(label, clipped, labels=[0, 1], sample_weight=weight)
    assert measured["log_loss"] == close(loss)
    assert measured["average_precision"] == (
        close(reference.average_precision_score(label, prediction, sample_weight=weight)) if label.any() else None
    )
    if 0 < label.sum() < len(label):
        assert measured["auc"] == close(reference.roc_auc_score(label, prediction, sample_weight=weight))
        rate = np.full(len(label), np.average(label, weights=weight))
        entropy = reference.log_loss(label, rate, labels=[0, 1], sample_weight=weight)
        assert measured["normalised_entropy"] == close(loss / entropy)
        assert measured["calibration"] == close(prediction @ weight / (label @ weight))
    else:
        assert measured["auc"] is None
        assert measured["normalised_entropy"] is None


@settings(max_examples=50)
@given(value_rows)
def test_regression_metrics_equal_scikit_learn(rows: list[tuple[float, float, float]]) -> None:
    prediction, label, weight = (np.array(column) for column in zip(*rows, strict=True))
    measured = values_of(prediction, label, weight=weight, kind="regression")
    if not weight.any():
        assert set(measured.values()) == {None}
        return
    assert measured["mae"] == close(reference.mean_absolute_error(label, prediction, sample_weight=weight))
    squared = reference.mean_squared_error(label, prediction, sample_weight=weight)
    assert measured["rmse"] == close(math.sqrt(squared))
    has_spread = len(set(label[weight > 0])) > 1
    assert measured["r2"] == (
        close(reference.r2_score(label, prediction, sample_weight=weight)) if has_spread else None
    )
    total = label @ weight
    assert measured["calibration"] == (close(prediction @ weight / total) if total else None)
    assert values_of(prediction, label, weight=weight, kind="watch_time") == measured


@settings(max_examples=50)
@given(class_rows)
def test_multiclass_metrics_equal_scikit_learn(rows: list[tuple[tuple[int, int, int], int, float]]) -> None:
    odds, label, weight = (np.array(column) for column in zip(*rows, strict=True))
    prediction = odds / odds.sum(axis=1, keepdims=True)
    measured = values_of(prediction, label, weight=weight, kind="multiclass")
    kept = weight > 0
    prediction, label, weight = prediction[kept], label[kept], weight[kept]
    if not len(label):
        assert set(measured.values()) == {None}
        return
    loss = reference.log_loss(label, prediction, labels=[0, 1, 2], sample_weight=weight)
    assert measured["log_loss"] == close(loss)
    hits = reference.accuracy_score(label, prediction.argmax(axis=1), sample_weight=weight)
    assert measured["accuracy"] == close(hits)
    occurring = np.unique(label)
    if len(occurring) == 1:
        assert measured["auc"] is None
        assert measured["normalised_entropy"] is None
        return
    areas = [reference.roc_auc_score(label == c, prediction[:, c], sample_weight=weight) for c in occurring]
    assert measured["auc"] == close(np.mean(areas))
    frequencies = np.tile(np.bincount(label, weight, minlength=3) / weight.sum(), (len(label), 1))
    with warnings.catch_warnings(action="ignore"):  # scikit-learn on rounding
        entropy = reference.log_loss(label, frequencies, labels=[0, 1, 2], sample_weight=weight)
    assert measured["normalised_entropy"] == close(loss / entropy)


def test_r2_keeps_its_digits_far_from_zero() -> None:
    rng = np.random.default_rng(0)
    label = 1e9 + rng.random(1_000)
    prediction = label + rng.normal(0, 0.1, 1_000)
    expected = reference.r2_score(label - 1e9, prediction - 1e9)
    assert values_of(prediction, label, kind="regression")["r2"] == close(expected, rel=1e-7)


@settings(max_examples=30)
@given(binary_rows)
def test_two_classes_measure_as_a_binary_task_does(rows: list[tuple[float, int, float]]) -> None:
    prediction, label, weight = (np.array(column) for column in zip(*rows, strict=True))
    binary = values_of(prediction, label, weight=weight)
    no_third = np.stack([1 - prediction, prediction, np.zeros(len(rows))], axis=1)
    classes = values_of(no_third, label, kind="multiclass", weight=weight)
    for name in ("log_loss", "normalised_entropy"):
        assert classes[name] == close(binary[name])
    # 1 - q rounds, which can make a tie of two tiny predictions.
    if np.unique(1 - prediction).size == np.unique(prediction).size:
        assert classes["auc"] == close(binary["auc"])


@settings(max_examples=20)
@given(binary_rows, value_rows)
def test_a_row_of_weight_two_counts_as_two_rows(binary: list[Any], continuous: list[Any]) -> None:
    for kind, rows in (("binary", binary), ("regression", continuous)):
        once = [(p, y, 2.0 if w == 3 else 1.0) for p, y, w in rows]
        twice = [(p, y) for p, y, w in once for _ in range(int(w))]
        prediction, label, weight = zip(*once, strict=True)
        weighted = values_of(prediction, label, weight=weight, user=[0] * len(once), kind=kind)
        repeated = values_of(*zip(*twice, strict=True), user=[0] * len(twice), kind=kind)
        for name in weighted.keys() - {"calibration_error"}:  # its buckets have equal numbers of rows, not weights
            assert weighted[name] == close(repeated[name])
