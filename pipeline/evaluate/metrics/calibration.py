"""The calibration curve of a binary task: how often it happened where the model said about so much."""

from typing import TypedDict

import numpy as np

from pipeline.evaluate.metrics.catalogue import NUM_BUCKETS
from pipeline.evaluate.metrics.resample import Z_95
from pipeline.evaluate.metrics.rows import FloatArray


class CalibrationBucket(TypedDict):
    """Rows with similar predictions; low and high bound the rate of positives with 95% confidence."""

    rows: int
    mean_prediction: float
    mean_label: float
    low: float
    high: float


def calibration_curve(sums: FloatArray) -> list[CalibrationBucket]:
    """Rate of positives against prediction, in order of prediction, from the sums of `metrics.calibration_error`.

    low and high are Wilson's interval for the rate (Wilson 1927, "Probable inference, the law of succession, and
    statistical inference") of as many independent rows as would let it vary as much as it does between replicates, at
    most those there are. Sums that are not finite give no buckets.
    """
    buckets = sums.reshape(NUM_BUCKETS, 4, -1)
    if not np.isfinite(buckets[:, :, 0]).all():
        return []
    weight, prediction, label, rows = buckets[buckets[:, 0, 0] > 0].swapaxes(0, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = label[:, 0] / weight[:, 0]
        variance = _variance(label[:, 1:] / weight[:, 1:])
        n = np.minimum(rows[:, 0], np.where(variance > 0, rate * (1 - rate) / variance, np.inf))
    centre = (rate + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    half_width = Z_95 / (1 + Z_95**2 / n) * np.sqrt(rate * (1 - rate) / n + Z_95**2 / (4 * n**2))
    # Rounding can leave a bound of an all-negative or all-positive bucket just beyond its rate.
    low, high = np.clip(centre - half_width, 0, rate), np.clip(centre + half_width, rate, 1)
    columns = (rows[:, 0].astype(int), prediction[:, 0] / weight[:, 0], rate, low, high)
    return [
        CalibrationBucket(rows=a, mean_prediction=b, mean_label=c, low=d, high=e)
        for a, b, c, d, e in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _variance(replicates: FloatArray) -> FloatArray:
    """The variance of each row's replicates, without those that are undefined; 0 if there is none."""
    defined = np.isfinite(replicates)
    number = defined.sum(axis=1)
    mean = np.where(defined, replicates, 0).sum(axis=1) / np.maximum(number, 1)
    squares = np.where(defined, np.square(replicates - mean[:, None]), 0).sum(axis=1)
    variance: FloatArray = squares / np.maximum(number - 1, 1)
    return variance
