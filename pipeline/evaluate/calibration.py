"""The calibration curve of a binary task: how often it happened where the model said about so much."""

from typing import TypedDict

import numpy as np

from pipeline.evaluate.metrics import Predictions

Z_95 = 1.959963984540054


class CalibrationBucket(TypedDict):
    """Rows with similar predictions; low and high bound the rate of positives with 95% confidence."""

    rows: int
    mean_prediction: float
    mean_label: float
    low: float
    high: float


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
