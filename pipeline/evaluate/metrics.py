"""Metrics of predictions, as pure functions on numpy arrays; one that is undefined is None with a reason.

A new metric is one function and one line in `METRICS`, a new kind of task one entry there. The first line of a
function's docstring explains the metric to the readers of the report.

Shapes: N rows, C classes of a multiclass task.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# A float32 sigmoid returns exactly 1 from a logit of about 17 on, and one such row would make the mean log loss
# infinite. 1e-7 is about the spacing of float32 below 1, so no distinction that float32 can make is lost there.
MIN_PROBABILITY = 1e-7


@dataclass(frozen=True)
class Predictions:
    """The rows of one measured thing: a task on its own sample space.

    prediction is a probability or a value per row, [N], or a probability per row and class, [N, C], where a label is
    the place of the class. label, [N], is known on every row; group, [N], is the user's key (None in an object array:
    no user); truth, of the prediction's shape, is the true probability or expected value.

    Raises:
        ValueError: the shapes do not fit together, or a label or a truth is NaN.
    """

    prediction: FloatArray
    label: FloatArray
    group: NDArray[Any] | None = None
    truth: FloatArray | None = None

    def __post_init__(self) -> None:
        per_row = self.prediction.shape[:1]
        for name, array, shape in (
            ("label", self.label, per_row),
            ("group", self.group, per_row),
            ("truth", self.truth, self.prediction.shape),
        ):
            if array is not None and array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, and must have {shape} as the prediction has")
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


class UndefinedMetricError(Exception):
    """A metric has no value on these rows; the text says why, in a few words."""


def auc(p: Predictions) -> float:
    """The chance that a random positive row is scored above a random negative one; a tie counts one half.

    (R - P (P + 1) / 2) / (P N), where R is the sum of the midranks of the P positives among P + N rows. Exact: the
    sums are integers. Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve".
    """
    _require_several_classes(p)
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


def mean_auc(p: Predictions) -> float:
    """The AUC of each class against all others, averaged over the classes that occur, each with equal weight.

    A class that no row has is left out, since its AUC is undefined. Not the pairwise mean of Hand and Till 2001.
    """
    _require_several_classes(p)
    of_classes = [
        auc(Predictions(p.prediction[:, place], (p.label == place).astype(np.float64)))
        for place in np.unique(p.label).astype(np.int64)
    ]
    return float(np.mean(of_classes))


def log_loss(p: Predictions) -> float:
    """The mean of -log(probability given to what happened), in nats; lower is better.

    -mean(log q_label), for a binary task -mean(y log q + (1 - y) log(1 - q)), with q the prediction clipped to
    [1e-7, 1 - 1e-7] (`MIN_PROBABILITY`).
    """
    q = np.clip(p.prediction, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    if q.ndim == 2:
        return float(-np.log(q[np.arange(p.num_rows), p.label.astype(np.int64)]).mean())
    return float(-np.where(p.label == 1, np.log(q), np.log1p(-q)).mean())


def normalised_entropy(p: Predictions) -> float:
    """The log loss over that of always predicting how often each label occurs; 1 is knowing only that, lower is better.

    log_loss / -sum_c b_c log b_c, with b_c the share of rows with label c. He et al. 2014, "Practical lessons from
    predicting clicks on ads at Facebook".
    """
    _require_several_classes(p)
    share = np.unique(p.label, return_counts=True)[1] / p.num_rows
    return log_loss(p) / float(-(share * np.log(share)).sum())


def accuracy(p: Predictions) -> float:
    """The share of rows whose most probable class is the one that happened; higher is better.

    Of equally probable classes the first counts.
    """
    return float((p.prediction.argmax(axis=1) == p.label).mean())


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

_OF_VALUES: dict[str, MetricFunction] = {"mae": mae, "rmse": rmse, "r2": r2, "calibration": calibration}
METRICS: dict[str, dict[str, MetricFunction]] = {
    "binary": {
        "auc": auc,
        "log_loss": log_loss,
        "normalised_entropy": normalised_entropy,
        "calibration": calibration,
        "gauc": gauc,
    },
    "multiclass": {
        "auc": mean_auc,
        "log_loss": log_loss,
        "normalised_entropy": normalised_entropy,
        "accuracy": accuracy,
    },
    "regression": _OF_VALUES,
    "watch_time": _OF_VALUES,
}
# The value that a metric has without any skill, for those where a fraction of the best reachable value means something.
CHANCE = {"auc": 0.5, "gauc": 0.5}


def compute_metrics(kind: str, p: Predictions) -> dict[str, Metric]:
    """Every metric of a task of this kind, in the order of `METRICS`.

    Raises:
        ValueError: a label is not the place of a class.
    """
    num_classes = {"binary": 2, "multiclass": p.prediction.shape[-1]}.get(kind)
    if num_classes and not np.isin(p.label, np.arange(num_classes)).all():
        raise ValueError(f"a {kind} task has a label that is not one of 0 to {num_classes - 1}")
    measured = {}
    for name, metric in METRICS[kind].items():
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
    is_finite = np.isfinite(p.prediction).reshape(p.num_rows, -1).all(axis=1)
    if not is_finite.all():
        return None, f"{np.count_nonzero(~is_finite):,} of {p.num_rows:,} predictions are not finite"
    try:
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            value = metric(p)
    except UndefinedMetricError as error:
        return None, str(error)
    return (value, None) if math.isfinite(value) else (None, "the values are too large or too small to compute it")


def _require_several_classes(p: Predictions) -> None:
    if p.label.min() == p.label.max():
        raise UndefinedMetricError(f"all labels are {p.label[0]:g}")


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
