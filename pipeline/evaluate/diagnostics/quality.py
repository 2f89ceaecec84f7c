"""How good predictions of a task are, as two numbers that are quick to compute on some thousand rows, with weights.

Shapes: N rows, C classes of a multiclass task.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pipeline.evaluate.metrics.rows import MIN_PROBABILITY
from pipeline.evaluate.prediction_table import FloatArray

QualityFunction = Callable[[FloatArray, FloatArray, FloatArray], float]


class MainMetric(NamedTuple):
    """The metric that a task is judged by first; `sign` times it is lower where predictions are better."""

    name: str
    sign: float
    function: QualityFunction


def auc(prediction_N: FloatArray, label_N: FloatArray, weight_N: FloatArray) -> float:
    """The chance that a positive row is scored above a negative one, by weight; a tie counts one half; NaN: no pair."""
    order = np.argsort(prediction_N, kind="stable")
    ordered = prediction_N[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(ordered) else order
    is_positive = label_N[order] == 1
    positive, negative = (
        np.add.reduceat(np.where(own, weight_N[order], 0.0), starts) if len(starts) else np.zeros(0)
        for own in (is_positive, ~is_positive)
    )
    pairs = positive.sum() * negative.sum()
    wins = positive @ (np.cumsum(negative) - negative / 2)
    return float(wins / pairs) if pairs > 0 else np.nan


def mean_auc(prediction_NC: FloatArray, label_N: FloatArray, weight_N: FloatArray) -> float:
    """The AUC of each class against all others, averaged over the classes for which it is defined."""
    of_classes = [
        auc(prediction_N, (label_N == place).astype(np.float64), weight_N)
        for place, prediction_N in enumerate(prediction_NC.T)
    ]
    defined = [value for value in of_classes if not np.isnan(value)]
    return float(np.mean(defined)) if defined else np.nan


def mae(prediction_N: FloatArray, label_N: FloatArray, weight_N: FloatArray) -> float:
    """The mean absolute error; NaN if no row has a weight."""
    return _mean(np.abs(prediction_N - label_N), weight_N)


def log_loss(prediction: FloatArray, label_N: FloatArray, weight_N: FloatArray) -> float:
    """The mean of -log(probability given to what happened), in nats: of [N] or, for several classes, [N, C]."""
    given_N = (
        prediction[np.arange(len(label_N)), label_N.astype(np.int64)]
        if prediction.ndim == 2
        else np.where(label_N == 1, prediction, 1 - prediction)
    )
    return _mean(-np.log(np.clip(given_N, MIN_PROBABILITY, 1 - MIN_PROBABILITY)), weight_N)


MAIN_METRICS = {
    "binary": MainMetric("auc", -1.0, auc),
    "multiclass": MainMetric("auc", -1.0, mean_auc),
    "regression": MainMetric("mae", 1.0, mae),
    "watch_time": MainMetric("mae", 1.0, mae),
}
HAS_LOG_LOSS = ("binary", "multiclass")


def _mean(values_N: FloatArray, weight_N: FloatArray) -> float:
    total = weight_N.sum()
    return float(values_N @ weight_N / total) if total > 0 else np.nan
