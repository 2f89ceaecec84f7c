"""Metrics of predictions, as pure functions on numpy arrays; one that is undefined is None with a reason.

A new metric is one function and one line in `BINARY_METRICS` or `REGRESSION_METRICS`. The first line of its docstring
explains it to the readers of the report.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# A float32 sigmoid returns exactly 1 from a logit of about 17 on, and one such row would make the mean log loss
# infinite. 1e-7 is about the spacing of float32 below 1, so no distinction that float32 can make is lost there.
MIN_PROBABILITY = 1e-7
Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Predictions:
    """The rows of one measured thing: a task on its own sample space.

    Arrays have one element per row: prediction is a probability or a value, label is known on every row, group is the
    user's key (None in an object array: no user), truth is the true probability or expected value.

    Raises:
        ValueError: the lengths differ, or a label or a truth is NaN.
    """

    prediction: FloatArray
    label: FloatArray
    group: NDArray[Any] | None = None
    truth: FloatArray | None = None

    def __post_init__(self) -> None:
        for name, array in (("label", self.label), ("group", self.group), ("truth", self.truth)):
            if array is not None and array.shape != self.prediction.shape:
                raise ValueError(f"{name} has shape {array.shape}, and prediction has {self.prediction.shape}")
        for name, values in (("label", self.label), ("truth", self.truth)):
            if values is not None and np.isnan(values).any():
                raise ValueError(f"{name} is NaN on {np.isnan(values).sum()} rows")

    @property
    def num_rows(self) -> int:
        return len(self.label)

    @property
    def num_positives(self) -> int:
        return int(np.count_nonzero(self.label))


@dataclass(frozen=True)
class Metric:
    """One measured value, and how near it comes to the best one.

    `best` is the same metric with the truth as the prediction. `fraction_of_best` is the part of the way from chance
    to `best`, for metrics with a known value at chance: (value - chance) / (best - chance).
    """

    value: float | None
    reason: str | None = None
    best: float | None = None
    fraction_of_best: float | None = None


class CalibrationBucket(TypedDict):
    """Rows with similar predictions; low and high bound the rate of positives with 95% confidence."""

    rows: int
    mean_prediction: float
    mean_label: float
    low: float
    high: float


class UndefinedMetricError(Exception):
    """A metric has no value on these rows; the text says why, in a few words."""


def auc(p: Predictions) -> float:
    """The chance that a random positive row is scored above a random negative one; a tie counts one half.

    (R - P (P + 1) / 2) / (P N), where R is the sum of the midranks of the P positives among P + N rows. Exact: the
    sums are integers. Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve".
    """
    _require_both_classes(p)
    value_per_group, _ = _auc_per_group(p.prediction, p.label, np.zeros(p.num_rows, np.int64))
    return float(value_per_group[0])


def gauc(p: Predictions) -> float:
    """The AUC inside each user's rows, averaged with the number of rows as weight; users with one class are left out.

    sum_u n_u AUC_u / sum_u n_u. Rows without a user are left out too. Zhu et al. 2017, "Optimized cost per click in
    Taobao display advertising".
    """
    if p.group is None:
        raise UndefinedMetricError("the rows have no user key")
    prediction, label, group = p.prediction, p.label, p.group
    if group.dtype == object:
        group = _encode(group)
        has_user = group >= 0
        prediction, label, group = prediction[has_user], label[has_user], group[has_user]
    value_per_group, rows_per_group = _auc_per_group(prediction, label, group)
    if not len(value_per_group):
        raise UndefinedMetricError("no user has both classes")
    return float(np.average(value_per_group, weights=rows_per_group))


def log_loss(p: Predictions) -> float:
    """The mean of -log(probability given to what happened), in nats; lower is better.

    -mean(y log q + (1 - y) log(1 - q)), with q the prediction clipped to [1e-7, 1 - 1e-7] (`MIN_PROBABILITY`).
    """
    q = np.clip(p.prediction, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    return float(-np.where(p.label == 1, np.log(q), np.log1p(-q)).mean())


def normalised_entropy(p: Predictions) -> float:
    """The log loss over that of always predicting the base rate; 1 is knowing only the rate, and lower is better.

    log_loss / -(b log b + (1 - b) log(1 - b)), with b the mean label. He et al. 2014, "Practical lessons from
    predicting clicks on ads at Facebook".
    """
    _require_both_classes(p)
    base_rate = p.num_positives / p.num_rows
    entropy = -(base_rate * math.log(base_rate) + (1 - base_rate) * math.log1p(-base_rate))
    return log_loss(p) / entropy


def calibration(p: Predictions) -> float:
    """The sum of the predictions over the sum of the labels; 1 is right, and above 1 promises too much."""
    total = float(p.label.sum())
    if total == 0:
        raise UndefinedMetricError("the labels sum to 0")
    return float(p.prediction.sum()) / total


def mae(p: Predictions) -> float:
    """The mean absolute error, in the label's unit; lower is better."""
    return float(np.abs(p.prediction - p.label).mean())


def rmse(p: Predictions) -> float:
    """The root of the mean squared error, in the label's unit; lower is better."""
    return math.sqrt(float(np.square(p.prediction - p.label).mean()))


def r2(p: Predictions) -> float:
    """The part of the labels' variance that is explained; 0 is always predicting the mean, and higher is better.

    1 - sum (y - prediction)^2 / sum (y - mean y)^2.
    """
    # The mean of equal labels can differ from them by rounding, so the sum of squares alone does not show this case.
    if p.label.min() == p.label.max():
        raise UndefinedMetricError("all labels are equal")
    return 1 - float(np.square(p.label - p.prediction).sum() / np.square(p.label - p.label.mean()).sum())


MetricFunction = Callable[[Predictions], float]

BINARY_METRICS: dict[str, MetricFunction] = {
    "auc": auc,
    "log_loss": log_loss,
    "normalised_entropy": normalised_entropy,
    "calibration": calibration,
    "gauc": gauc,
}
REGRESSION_METRICS: dict[str, MetricFunction] = {"mae": mae, "rmse": rmse, "r2": r2, "calibration": calibration}
# The value that a metric has without any skill, for those where a fraction of the best reachable value means something.
CHANCE = {"auc": 0.5, "gauc": 0.5}


def binary_metrics(p: Predictions) -> dict[str, Metric]:
    """Every metric of a binary task, in the order of `BINARY_METRICS`.

    Raises:
        ValueError: a label is neither 0 nor 1.
    """
    if not np.isin(p.label, (0, 1)).all():
        raise ValueError("a binary task has a label that is neither 0 nor 1")
    return _measure(BINARY_METRICS, p)


def regression_metrics(p: Predictions) -> dict[str, Metric]:
    """Every metric of a regression task, in the order of `REGRESSION_METRICS`."""
    return _measure(REGRESSION_METRICS, p)


def calibration_curve(p: Predictions, num_buckets: int = 20) -> list[CalibrationBucket]:
    """Rate of positives against prediction, in at most `num_buckets` buckets of about equal numbers of rows.

    Buckets are in order of prediction. Rows with equal predictions share a bucket, so heavy ties give fewer buckets.
    low and high are Wilson's interval for the rate (Wilson 1927, "Probable inference, the law of succession, and
    statistical inference"). No rows, or a prediction that is not finite, give no buckets.
    """
    if p.num_rows == 0 or not np.isfinite(p.prediction).all():
        return []
    order = np.argsort(p.prediction, kind="stable")
    prediction, label = p.prediction[order], p.label[order]
    wanted_ends = np.arange(1, num_buckets + 1) * p.num_rows // num_buckets
    last_values = prediction[wanted_ends[wanted_ends > 0] - 1]
    ends = np.unique(np.searchsorted(prediction, last_values, side="right"))
    starts = np.concatenate([[0], ends[:-1]])
    n = ends - starts
    mean_prediction = np.add.reduceat(prediction, starts) / n
    rate = np.add.reduceat(label, starts) / n
    centre = (rate + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    half_width = Z_95 / (1 + Z_95**2 / n) * np.sqrt(rate * (1 - rate) / n + Z_95**2 / (4 * n**2))
    # Rounding can leave a bound of an all-negative or all-positive bucket just beyond its rate.
    low, high = np.clip(centre - half_width, 0, rate), np.clip(centre + half_width, rate, 1)
    columns = zip(n.tolist(), mean_prediction.tolist(), rate.tolist(), low.tolist(), high.tolist(), strict=True)
    return [CalibrationBucket(rows=a, mean_prediction=b, mean_label=c, low=d, high=e) for a, b, c, d, e in columns]


def _measure(metrics: Mapping[str, MetricFunction], p: Predictions) -> dict[str, Metric]:
    measured = {}
    for name, metric in metrics.items():
        value, reason = _evaluate(metric, p)
        best = None if p.truth is None else _evaluate(metric, replace(p, prediction=p.truth))[0]
        fraction = None
        if name in CHANCE and value is not None and best is not None and best > CHANCE[name]:
            fraction = (value - CHANCE[name]) / (best - CHANCE[name])
        measured[name] = Metric(value, reason, best, fraction)
    return measured


def _evaluate(metric: MetricFunction, p: Predictions) -> tuple[float | None, str | None]:
    if p.num_rows == 0:
        return None, "there are no rows"
    num_bad = int(np.count_nonzero(~np.isfinite(p.prediction)))
    if num_bad:
        return None, f"{num_bad:,} of {p.num_rows:,} predictions are not finite"
    try:
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            value = metric(p)
    except UndefinedMetricError as error:
        return None, str(error)
    return (value, None) if math.isfinite(value) else (None, "the values are too large or too small to compute it")


def _require_both_classes(p: Predictions) -> None:
    if p.num_positives in (0, p.num_rows):
        raise UndefinedMetricError(f"all labels are {1 if p.num_positives else 0}")


def _auc_per_group(prediction: FloatArray, label: FloatArray, group: NDArray[Any]) -> tuple[FloatArray, IntArray]:
    """AUC and number of rows of each group that has both classes, in order of group."""
    if not len(label):
        return np.empty(0), np.empty(0, np.int64)
    order = np.lexsort((prediction, group))
    prediction, group = prediction[order], group[order]
    is_positive = (label[order] == 1).astype(np.int64)
    starts_group = np.concatenate([[True], group[1:] != group[:-1]])
    starts_tie = starts_group | np.concatenate([[True], prediction[1:] != prediction[:-1]])
    group_start, rows = _runs(starts_group)
    tie_start, tie_rows = _runs(starts_tie)
    # Twice a midrank is an integer: rows a to b - 1, counted from 0, share the midrank (a + 1 + b) / 2.
    twice_midrank = np.repeat(2 * tie_start + tie_rows + 1, tie_rows)
    positives = np.add.reduceat(is_positive, group_start)
    twice_rank_sum = np.add.reduceat(is_positive * twice_midrank, group_start) - 2 * group_start * positives
    twice_wins = twice_rank_sum - positives * (positives + 1)
    twice_pairs = 2 * positives * (rows - positives)
    has_both = twice_pairs > 0
    return twice_wins[has_both] / twice_pairs[has_both], rows[has_both]


def _runs(starts: NDArray[np.bool_]) -> tuple[IntArray, IntArray]:
    """First row and length of each run, from a flag per row that says where a run starts."""
    first = np.flatnonzero(starts)
    return first, np.diff(np.append(first, len(starts)))


def _encode(keys: NDArray[Any]) -> IntArray:
    """A number per distinct key, for keys of any type, and -1 for None."""
    values = keys.tolist()
    code_of = {key: -1 if key is None else code for code, key in enumerate(dict.fromkeys(values))}
    return np.fromiter((code_of[value] for value in values), np.int64, len(values))
