"""Metrics of predictions, by kind of task: what is summed over the rows, and the value that the sums have.

A new metric is one function and one line in `METRICS`, a new kind of task one entry there. The first line of a
function's docstring explains the metric to the readers of the report. One that compares rows with one another is in
`grouped`, if inside users or requests, or in `pairs`. w, y and p are a row's weight, label and prediction.
"""

import inspect
import math
import re
from dataclasses import dataclass
from functools import partial

import numpy as np

from pipeline.evaluate.metrics.grouped import gauc, mrr, ndcg, recall, request_gauc, unweighted_gauc
from pipeline.evaluate.metrics.pairs import (
    auc,
    average_precision,
    exact_average_precision,
    exact_mean_auc,
    mean_auc,
    value_of_auc,
    value_of_mean_auc,
    value_of_xauc,
    xauc,
)
from pipeline.evaluate.metrics.resample import Estimate
from pipeline.evaluate.metrics.rows import FloatArray, Metric, Rows, Terms

NUM_BUCKETS = 20


def log_loss(rows: Rows) -> Terms:
    """The mean of -log(probability given to what happened), in nats; lower is better.

    -sum w log q_y / sum w, with q_y the probability given to the label, clipped to [1e-7, 1 - 1e-7]
    (`MIN_PROBABILITY`).
    """
    return _mean(rows, rows.loss)


def normalised_entropy(rows: Rows) -> Terms:
    """The log loss over that of always predicting how often each label occurs; 1 is knowing only that, lower is better.

    log_loss / -sum_c b_c log b_c, with b_c the share of rows with label c, by weight. He et al. 2014, "Practical
    lessons from predicting clicks on ads at Facebook".
    """
    num_classes = rows.prediction.shape[1] if rows.prediction.ndim == 2 else 2
    is_class = rows.label == np.arange(num_classes)[:, None]
    return Terms(np.concatenate([[rows.weight * rows.loss], np.where(is_class, rows.weight, 0.0)]), rows.unit)


def calibration(rows: Rows) -> Terms:
    """The sum of the predictions over the sum of the labels; 1 is right, and above 1 promises too much."""
    return Terms(np.stack([rows.weight * rows.prediction, rows.weight * rows.label]), rows.unit)


def calibration_error(rows: Rows) -> Terms:
    """How far mean prediction and rate of positives lie apart in 20 buckets of similar predictions; lower is better.

    sum_b |sum_(i in b) w_i (p_i - y_i)| / sum w (expected calibration error); the buckets have about equal numbers of
    rows. Chance alone keeps it above 0. Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian
    binning".
    """
    bucket = np.searchsorted(rows.reference.buckets, rows.prediction, side="left")
    weight = rows.weight
    values = np.stack([weight, weight * rows.prediction, weight * rows.label, np.ones(len(rows))])
    return Terms(values, rows.unit, bucket, NUM_BUCKETS)


def accuracy(rows: Rows) -> Terms:
    """The share of rows whose most probable class is the one that happened; higher is better.

    Of equally probable classes the first counts.
    """
    return _mean(rows, rows.prediction.argmax(axis=1) == rows.label)


def mae(rows: Rows) -> Terms:
    """The mean absolute error, in the label's unit; lower is better."""
    return _mean(rows, np.abs(rows.prediction - rows.label))


def rmse(rows: Rows) -> Terms:
    """The root of the mean squared error, in the label's unit; lower is better."""
    return _mean(rows, np.square(rows.prediction - rows.label))


def r2(rows: Rows) -> Terms:
    """The part of the labels' variance that is explained; 0 is always predicting the mean, and higher is better.

    1 - sum w (y - p)^2 / sum w (y - mean y)^2. The variance comes from the sums of y - c and its square, with c a label
    near the middle, so that no digits are lost.
    """
    distance = rows.label - rows.reference.shift
    values = [np.square(rows.label - rows.prediction), distance, np.square(distance), np.ones(len(rows))]
    return Terms(rows.weight * np.stack(values), rows.unit)


def _mean(rows: Rows, values: FloatArray) -> Terms:
    return Terms(np.stack([rows.weight * values, rows.weight]), rows.unit)


def _ratio(sums: FloatArray) -> FloatArray:
    quotient: FloatArray = sums[0] / sums[1]
    return quotient


def _root(sums: FloatArray) -> FloatArray:
    root: FloatArray = np.sqrt(_ratio(sums))
    return root


def _over_entropy(sums: FloatArray) -> FloatArray:
    share = sums[1:] / sums[1:].sum(axis=0)
    entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=0)
    value: FloatArray = sums[0] / sums[1:].sum(axis=0) / np.where(entropy > 0, entropy, np.nan)
    return value


def _bucket_error(sums: FloatArray) -> FloatArray:
    weight, prediction, label, _ = sums.reshape(NUM_BUCKETS, 4, -1).swapaxes(0, 1)
    error: FloatArray = np.abs(prediction - label).sum(axis=0) / weight.sum(axis=0)
    return error


def _explained(sums: FloatArray) -> FloatArray:
    squares = sums[2] - np.square(sums[1]) / sums[3]
    value: FloatArray = 1 - sums[0] / np.where(squares > 0, squares, np.nan)
    return value


def _auc_is_undefined(sums: FloatArray) -> str | None:
    return "all labels are 0" if sums[1] == 0 else "all labels are 1" if sums[3] == 0 else None


def _has_one_class(sums: FloatArray) -> str | None:
    """From the weight of each class, after the first sum."""
    occurring = np.flatnonzero(sums[1:])
    return f"all labels are {occurring[0]}" if len(occurring) == 1 else None


def _mean_auc_is_undefined(sums: FloatArray) -> str | None:
    return _has_one_class(np.append(0, sums.reshape(-1, 4)[:, 1]))


def _has_no_spread(sums: FloatArray) -> str | None:
    return None if np.isinf(sums).any() else "all labels are equal"


def _is_zero(place: int, reason: str, sums: FloatArray) -> str | None:
    return reason if sums[place] == 0 else None


FRACTION = (0.0, 1.0)
# Labels of a regression may be negative.
_CALIBRATION = Metric(
    calibration, _ratio, "nearer 1", partial(_is_zero, 1, "the labels sum to 0"), bounds=(-math.inf, math.inf)
)
_NO_USER = partial(_is_zero, 1, "no user has both classes")
_NO_POSITIVE = partial(_is_zero, 1, "no request has a positive row")
_OF_VALUES = {
    "mae": Metric(mae, _ratio, "lower"),
    "rmse": Metric(rmse, _root, "lower"),
    "r2": Metric(r2, _explained, "higher", _has_no_spread, bounds=(-math.inf, 1.0)),
    "calibration": _CALIBRATION,
    "xauc": Metric(
        xauc, value_of_xauc, "higher", partial(_is_zero, 1, "all labels are equal"), of_sample=True, bounds=FRACTION
    ),
}
# In the order of the report. Of a name that ends with @k the report gives the number.
METRICS: dict[str, dict[str, Metric]] = {
    "binary": {
        "auc": Metric(
            auc, value_of_auc, "higher", _auc_is_undefined, exact=exact_mean_auc, chance=0.5, bounds=FRACTION
        ),
        "average_precision": Metric(
            average_precision,
            _ratio,
            "higher",
            partial(_is_zero, 1, "all labels are 0"),
            exact=exact_average_precision,
            bounds=FRACTION,
        ),
        "log_loss": Metric(log_loss, _ratio, "lower"),
        "normalised_entropy": Metric(normalised_entropy, _over_entropy, "lower", _has_one_class),
        "calibration": _CALIBRATION,
        "calibration_error": Metric(calibration_error, _bucket_error, "lower"),
        "gauc": Metric(gauc, _ratio, "higher", _NO_USER, "user", chance=0.5, bounds=FRACTION),
        "gauc_unweighted": Metric(unweighted_gauc, _ratio, "higher", _NO_USER, "user", chance=0.5, bounds=FRACTION),
        "request_gauc": Metric(
            request_gauc, _ratio, "higher", partial(_is_zero, 1, "no request has both classes"), "request", chance=0.5
        ),
        "ndcg@k": Metric(ndcg, _ratio, "higher", _NO_POSITIVE, "request", bounds=FRACTION),
        "recall@k": Metric(recall, _ratio, "higher", _NO_POSITIVE, "request", bounds=FRACTION),
        "mrr": Metric(mrr, _ratio, "higher", _NO_POSITIVE, "request", bounds=FRACTION),
    },
    "multiclass": {
        "auc": Metric(
            mean_auc,
            value_of_mean_auc,
            "higher",
            _mean_auc_is_undefined,
            exact=exact_mean_auc,
            chance=0.5,
            bounds=FRACTION,
        ),
        "log_loss": Metric(log_loss, _ratio, "lower"),
        "normalised_entropy": Metric(normalised_entropy, _over_entropy, "lower", _has_one_class),
        "accuracy": Metric(accuracy, _ratio, bounds=FRACTION),
    },
    "regression": _OF_VALUES,
    "watch_time": _OF_VALUES,
}
# What a task is judged by first, and what is measured on every slice of the rows; the main metric comes first.
SLICE_METRICS: dict[str, tuple[str, ...]] = {
    "binary": ("auc", "log_loss", "calibration"),
    "multiclass": ("auc", "log_loss"),
    "regression": ("mae", "calibration"),
    "watch_time": ("mae", "calibration"),
}
MAIN_METRIC = {kind: names[0] for kind, names in SLICE_METRICS.items()}


@dataclass(frozen=True)
class Measurable:
    """What the rows allow: how many there are, their weight, how many predictions are not finite, and the keys."""

    rows: int
    weight: float
    num_not_finite: int
    keys: frozenset[str]

    def describe_undefined(self, metric: Metric) -> str | None:
        """Why no value can be computed, or None."""
        if not self.rows:
            return "there are no rows"
        if self.num_not_finite:
            return f"{self.num_not_finite:,} of {self.rows:,} predictions are not finite"
        if metric.key and metric.key not in self.keys:
            return f"the rows have no {metric.key} key"
        return None if self.weight else "the weights of the rows sum to 0"


def estimate(metric: Metric, sums: FloatArray, measurable: Measurable, ranked: FloatArray | None) -> Estimate:
    """The value of a metric from the sums of its terms, [K, 1 + B], and from what was counted of ranked rows."""
    undefined = np.full(sums.shape[1] - 1, np.nan)
    reason = measurable.describe_undefined(metric)
    if reason:
        return Estimate(None, reason, undefined)
    with np.errstate(all="ignore"):
        values = metric.value(sums)
        value = metric.exact(ranked) if metric.exact and ranked is not None else float(values[0])
        replicates = value + (values[1:] - values[0])
    replicates[np.isinf(replicates)] = np.nan
    if math.isfinite(value):
        return Estimate(value, None, replicates, metric.bounds)
    reason = metric.describe_undefined(sums[:, 0]) if metric.describe_undefined else None
    return Estimate(None, reason or "the values are too large or too small to compute it", undefined)


def name_in_report(name: str, k: int) -> str:
    return name.replace("@k", f"@{k}")


def definition_of(kind: str, name: str) -> Metric | None:
    """The metric that a report has under a name; None for one of another version."""
    return METRICS.get(kind, {}).get(re.sub(r"@\d+$", "@k", name))


def explain(kind: str, name: str) -> str:
    """The first line of the metric's docstring; empty for a metric of another version."""
    metric = definition_of(kind, name)
    return (inspect.getdoc(metric.terms) or "").split("\n")[0] if metric else ""
