"""How a binary task's predictions are distributed over the rows with each label, in counts that add up over workers."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

# Beyond these a prediction is nearly sure. They are two of the edges, which lie at equal steps of log odds.
LOW, HIGH = 0.001, 0.999
_STEPS_TO_LOW, _STEPS = 14, 19
_LOG_ODDS = np.arange(-_STEPS, _STEPS + 1) / _STEPS_TO_LOW * np.log(HIGH / LOW)
EDGES = np.concatenate([[0.0], 1 / (1 + np.exp(-_LOG_ODDS)), [1.0]])
_BINS_BELOW = _STEPS - _STEPS_TO_LOW + 1


@dataclass(frozen=True)
class ScoreDistribution:
    """Rows by label, 0 or 1, and by bin of the prediction, [2, bins]; and rows whose prediction is not finite."""

    counts: NDArray[np.int64]
    not_finite: int

    @classmethod
    def of(cls, prediction: NDArray[np.float64], label: NDArray[np.float64]) -> Self:
        """Of probabilities and labels, [rows]. A prediction on an edge belongs to the bin above it."""
        is_finite = np.isfinite(prediction)
        num_bins = len(EDGES) - 1
        bins = np.clip(np.searchsorted(EDGES, prediction[is_finite], side="right") - 1, 0, num_bins - 1)
        places = bins + num_bins * (label[is_finite] == 1)
        counts = np.bincount(places, minlength=2 * num_bins).astype(np.int64).reshape(2, num_bins)
        return cls(counts, int(np.count_nonzero(~is_finite)))

    def merge(self, other: Self) -> Self:
        """Of both: in any order that of all rows."""
        return type(self)(self.counts + other.counts, self.not_finite + other.not_finite)

    def describe(self) -> dict[str, Any]:
        """{"edges": [bins + 1], "negatives", "positives": rows by bin, "not_finite", "below", "above": the rows of each
        label with nearly sure predictions, {"limit", "negatives", "positives"}}."""
        return {
            "edges": EDGES.tolist(),
            "negatives": self.counts[0].tolist(),
            "positives": self.counts[1].tolist(),
            "not_finite": self.not_finite,
            "below": self._sure(LOW, slice(_BINS_BELOW)),
            "above": self._sure(HIGH, slice(-_BINS_BELOW, None)),
        }

    def _sure(self, limit: float, bins: slice) -> dict[str, Any]:
        negatives, positives = self.counts[:, bins].sum(axis=1).tolist()
        return {"limit": limit, "negatives": negatives, "positives": positives}
