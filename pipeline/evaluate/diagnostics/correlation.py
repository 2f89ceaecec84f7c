"""How tasks go together: correlations between their predictions and between their labels on a sample of rows.

Shapes: K tasks, N rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.evaluate.prediction_table import FloatArray, Measured

# A deviation of a standardised column over some of its rows that is rounding and nothing else.
MIN_DEVIATION = 1e-6


def correlate_tasks(
    measured: Sequence[Measured], labels: Mapping[str, FloatArray], outputs: Mapping[str, FloatArray]
) -> dict[str, Any]:
    """Correlations between all tasks but multiclass ones, whose predictions are no single number.

    Those of predictions, each for its task's own space, are over all rows, also where the task is not defined; those of
    labels over the rows that both tasks are defined on, which for two binary tasks is the phi coefficient. {"rows",
    "names": K, "predictions": {"pearson", "spearman"}, "labels": {"pearson", "rows"}}, each K x K; a correlation
    without variance is None.
    """
    own = [thing for thing in measured if thing.scope == "own space" and thing.kind != "multiclass"]
    num_rows = len(next(iter(labels.values())))
    prediction_KN, label_KN = np.zeros((2, len(own), num_rows))
    for place, thing in enumerate(own):
        prediction_KN[place] = outputs[thing.outputs[0]]
        label_KN[place] = thing.select_labels(labels)
    prediction_KN[~np.isfinite(prediction_KN)] = np.nan
    is_known = (~np.isnan(label_KN)).astype(np.int64)
    return {
        "rows": num_rows,
        "names": [thing.name for thing in own],
        "predictions": {
            "pearson": _correlations(prediction_KN),
            "spearman": _correlations(np.array([_ranks(values) for values in prediction_KN]).reshape(-1, num_rows)),
        },
        "labels": {"pearson": _correlations(label_KN), "rows": (is_known @ is_known.T).tolist()},
    }


def _correlations(value_KN: FloatArray) -> list[list[float | None]]:
    """Pearson's, of each two columns over the rows where neither is NaN."""
    known_KN = (~np.isnan(value_KN)).astype(np.float64)
    value_KN = _standardised(value_KN)
    with np.errstate(divide="ignore", invalid="ignore"):
        rows_KK = known_KN @ known_KN.T
        mean_KK = value_KN @ known_KN.T / rows_KK
        variance_KK = np.square(value_KN) @ known_KN.T / rows_KK - mean_KK**2
        covariance_KK = value_KN @ value_KN.T / rows_KK - mean_KK * mean_KK.T
        deviation_KK = np.sqrt(np.where(variance_KK > MIN_DEVIATION**2, variance_KK, np.nan))
        correlation_KK = np.clip(covariance_KK / (deviation_KK * deviation_KK.T), -1, 1)
    return [[None if np.isnan(value) else round(float(value), 6) for value in row] for row in correlation_KK]


def _standardised(value_KN: FloatArray) -> FloatArray:
    """Each column with mean 0 and deviation 1 over its own rows, so that no sum loses digits; 0 where it is NaN."""
    result = np.zeros(value_KN.shape)
    for place, values in enumerate(value_KN):
        known = values[~np.isnan(values)]
        if len(known) and known.min() < known.max():
            result[place] = (values - known.mean()) / known.std()
    return np.nan_to_num(result)


def _ranks(values: FloatArray) -> FloatArray:
    """Midranks, NaN where the value is."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return np.where(np.isnan(values), np.nan, ranks)
