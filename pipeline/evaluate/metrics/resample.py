"""The Poisson bootstrap over units: how often each counts in each replicate, and what follows from the replicates.

Every replicate counts each unit a random number of times, Poisson with mean 1 (Chamandy et al. 2012, "Estimating
uncertainty for massive data streams"). The number is a function of the unit's hash and the replicate alone, so it is
the same for every model, metric, slice, partition and machine.

Shapes: U units, B replicates.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# The 0.975 quantile of the normal distribution.
Z_95 = 1.959963984540054
# A replicate may be undefined, for example where no positive row is counted; with fewer defined ones there is no
# interval.
MIN_DEFINED_FRACTION = 0.9
GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
LANES = 4
BLOCK_UNITS = 1 << 12


def _poisson_table() -> NDArray[np.uint8]:
    """The count that each of 65,536 equally likely numbers stands for."""
    probabilities = [math.exp(-1) / math.factorial(count) for count in range(20)]
    thresholds = np.round(65536 * np.cumsum(probabilities)).astype(np.int64)
    return np.searchsorted(thresholds, np.arange(65536), side="right").astype(np.uint8)


_COUNT_OF_16_BITS = _poisson_table()


def mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): a bijection that scatters 64-bit integers."""
    mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def count_units(unit_hash: NDArray[np.uint64], num_replicates: int) -> NDArray[np.uint8]:
    """How often each unit is counted: once in the data themselves, [:, 0], then in each replicate: [U, 1 + B].

    Four replicates share a number of the generator SplitMix64 that is seeded with the unit's hash.
    """
    counts = np.ones((len(unit_hash), 1 + num_replicates), np.uint8)
    steps = (np.arange(-(-num_replicates // LANES), dtype=np.uint64) + np.uint64(1)) * GOLDEN_GAMMA
    for first in range(0, len(unit_hash) if num_replicates else 0, BLOCK_UNITS):
        block = slice(first, first + BLOCK_UNITS)
        words = mix(mix(unit_hash[block])[:, None] + steps)
        lanes = words.astype("<u8", copy=False).view("<u2")
        counts[block, 1:] = _COUNT_OF_16_BITS[lanes[:, :num_replicates]]
    return counts


class Interval(NamedTuple):
    low: float
    high: float


class Estimate(NamedTuple):
    """A value, or None and the reason why there is none, and its replicates, NaN where undefined."""

    value: float | None
    reason: str | None
    replicates: FloatArray
    bounds: tuple[float, float] = (-math.inf, math.inf)

    def interval(self) -> Interval | None:
        """Where the value lies with 95% confidence: 1.96 standard deviations to both sides, as far as the bounds."""
        interval = None if self.value is None else around(self.value, self.replicates)
        lowest, highest = self.bounds
        return interval and Interval(max(interval.low, lowest), min(interval.high, highest))


def around(value: float, replicates: FloatArray) -> Interval | None:
    deviation = spread(replicates)
    return None if deviation is None else Interval(value - Z_95 * deviation, value + Z_95 * deviation)


def spread(replicates: FloatArray) -> float | None:
    """The standard deviation of the replicates; None where too few are defined, or they are too large."""
    defined = replicates[np.isfinite(replicates)]
    if len(defined) < max(2, MIN_DEFINED_FRACTION * len(replicates)):
        return None
    with np.errstate(over="ignore"):
        deviation = float(defined.std(ddof=1))
    return deviation if math.isfinite(deviation) else None


def p_value(difference: float, replicates: FloatArray) -> float | None:
    """The chance of a difference at least as large as this one if there is none, by the normal distribution.

    `replicates` are those of the difference. Two predictions that are the same everywhere have 1.
    """
    deviation = spread(replicates)
    if deviation is None:
        return None
    if difference == 0:
        return 1.0
    return math.erfc(abs(difference) / deviation / math.sqrt(2)) if deviation else None


def adjust_p_values(p_values: list[float]) -> list[float]:
    """Benjamini and Hochberg 1995: of those at most 0.05, an expected 5% at most are of differences that are none."""
    order = np.argsort(p_values)[::-1]
    num = len(p_values)
    adjusted = np.minimum.accumulate(np.array(p_values)[order] * num / np.arange(num, 0, -1)) if num else np.zeros(0)
    result = np.empty(num)
    result[order] = np.minimum(adjusted, 1)
    return [float(p) for p in result]
