"""Numbers to dense inputs: clip and log1p, the moments of the training rows, standardising; and buckets."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.config import Section
from pipeline.feature_kinds import NumericFeature
from pipeline.preprocess.columns.numbers import MAX_FLOAT32


class Normalization(Section):
    """What standardising a numeric feature needs, of its training rows after clip and log1p."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Moments:
    """Count, mean, sum of squared deviations and range of some numbers; mergeable in a fixed order."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    lowest: float = math.inf
    highest: float = -math.inf

    @classmethod
    def of(cls, values: np.ndarray) -> "Moments":
        """Of float64 values without NaN."""
        if not len(values):
            return cls()
        mean = float(values.mean())
        return cls(len(values), mean, float(np.square(values - mean).sum()), float(values.min()), float(values.max()))

    def merge(self, other: "Moments") -> "Moments":
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        gap = other.mean - self.mean
        return Moments(
            count,
            self.mean + gap * other.count / count,
            self.squares + other.squares + gap * gap * self.count * other.count / count,
            min(self.lowest, other.lowest),
            max(self.highest, other.highest),
        )

    @property
    def deviation(self) -> float:
        """The standard deviation; exactly 0 when all numbers are equal, whatever the rounding of their mean."""
        if self.lowest >= self.highest:
            return 0.0
        return math.sqrt(self.squares / self.count)

    def normalization(self) -> Normalization:
        """A constant feature, or one without a value, is left unscaled."""
        mean = self.lowest if self.count and self.lowest == self.highest else self.mean
        return Normalization(mean=mean, deviation=self.deviation or 1.0)


def bucket_of(values: np.ndarray, boundaries: Sequence[float]) -> np.ndarray:
    """The int64 bucket of each number: how many boundaries are not above it; -1 for NaN."""
    return np.where(np.isnan(values), -1, np.searchsorted(np.asarray(boundaries, np.float64), values, side="right"))


def clip_and_log(values: np.ndarray, feature: NumericFeature) -> np.ndarray:
    """The values after the feature's clip and log1p; NaN stays NaN."""
    if feature.clip is not None:
        values = np.clip(values, *feature.clip)
    return np.log1p(values) if feature.log1p else values


def standardise(values: np.ndarray, normalization: Normalization) -> np.ndarray:
    """The values less the mean, over the deviation, kept within float32."""
    with np.errstate(over="ignore"):
        scaled = (values - normalization.mean) / normalization.deviation
    kept: np.ndarray = np.clip(scaled, -MAX_FLOAT32, MAX_FLOAT32)
    return kept


def to_inputs(values: np.ndarray, feature: NumericFeature, normalization: Normalization) -> np.ndarray:
    """The dense inputs of numbers, NaN for null: after clip and log1p, null filled, standardised if it says so."""
    fill = normalization.mean
    if isinstance(feature.fill, float):
        fill = float(clip_and_log(np.array([feature.fill]), feature)[0])
    values = clip_and_log(values, feature)
    is_null = np.isnan(values)
    filled = np.where(is_null, fill, values)
    inputs = standardise(filled, normalization) if feature.standardise else np.clip(filled, -MAX_FLOAT32, MAX_FLOAT32)
    return inputs if feature.fill is not None else np.where(is_null, 0.0, inputs)
