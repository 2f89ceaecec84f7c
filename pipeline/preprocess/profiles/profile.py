"""The profile of a feature for statistics.json: quantiles, a histogram, list lengths, top values; all can be merged.

Quantiles and histograms come from a `Sample`, the same however the rows are divided; a quantile is that of the rows
within two percent.
"""

from dataclasses import astuple, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.preprocess.features.normalize import Moments
from pipeline.preprocess.profiles.sample import RowOrder, Sample

MAX_BINS = 20
# Stored per table: more than are compared, so that a value that became rarer is still found.
MAX_TOP_VALUES = 100
MAX_VALUE_LENGTH = 200
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


@dataclass(frozen=True)
class NumberProfile:
    """Of a numeric feature in one split, before it is standardised."""

    num_rows: int = 0
    moments: Moments = field(default_factory=Moments)
    sample: Sample = field(default_factory=Sample)

    @classmethod
    def of(cls, values: np.ndarray, order: RowOrder) -> "NumberProfile":
        """Of float64 values, NaN for null, whose rows have an order."""
        return cls(len(values), Moments.of(values[~np.isnan(values)]), Sample.of(values, order))

    def merge(self, other: "NumberProfile") -> "NumberProfile":
        return NumberProfile(
            self.num_rows + other.num_rows, self.moments.merge(other.moments), self.sample.merge(other.sample)
        )

    def to_json(self) -> list[Any]:
        moments = astuple(self.moments) if self.moments.count else None
        return [self.num_rows, moments, self.sample.to_text()]

    @classmethod
    def from_json(cls, content: list[Any]) -> "NumberProfile":
        num_rows, moments, sample = content
        return cls(num_rows, Moments(*moments) if moments else Moments(), Sample.from_text(sample))

    def describe(self) -> dict[str, Any]:
        """Rows, nulls, mean, deviation, quantiles and histogram; what no value defines is null.

        `distinct` is null where the sample does not hold every value, and `distinct_in_sample` is a lower bound.
        """
        moments, values = self.moments, self.sample.values
        distinct = len(np.unique(values))
        edges = bin_edges(values)
        return {
            "rows": self.num_rows,
            "nulls": self.num_rows - moments.count,
            "distinct": distinct if len(values) == moments.count else None,
            "distinct_in_sample": distinct,
            "mean": moments.mean if moments.count else None,
            "deviation": moments.deviation if moments.count else None,
            "quantiles": self._quantiles(),
            "histogram": {"edges": edges.tolist(), "counts": bin_counts(values, edges)} if moments.count else None,
        }

    def _quantiles(self) -> dict[str, float] | None:
        """By percent; the smallest and the largest value are those of all rows, not of the sample."""
        if not self.moments.count:
            return None
        # An existing value, never one between two: half of a category's number means nothing.
        found = np.quantile(self.sample.values, QUANTILES, method="inverted_cdf").tolist()
        found[0], found[-1] = self.moments.lowest, self.moments.highest
        return {f"{100 * level:g}": value for level, value in zip(QUANTILES, found, strict=True)}


def bin_edges(values: np.ndarray) -> np.ndarray:
    """The edges between at most `MAX_BINS` bins, in ascending order; the first and last bin are open.

    A bin per value where there are few, else bins of equal width between the 1 % and the 99 % quantile: a single
    outlier would squeeze all the other values into one bin.
    """
    distinct = np.unique(values)
    if len(distinct) <= MAX_BINS:
        edges = distinct[:-1] + (distinct[1:] - distinct[:-1]) / 2
    else:
        low, high = np.quantile(values, (0.01, 0.99), method="inverted_cdf")
        if low == high:  # more than 98 % of the values are one
            low, high = distinct[0], distinct[-1]
        edges = np.linspace(low, high, MAX_BINS - 1)
    unique: np.ndarray = np.unique(edges)
    return unique


def bin_counts(values: np.ndarray, edges: np.ndarray) -> list[int]:
    """How many values lie in each of the `len(edges) + 1` bins; one that lies on an edge counts above it."""
    counts: list[int] = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1).tolist()
    return counts


@dataclass(frozen=True)
class LengthProfile:
    """How many lists of a feature in one split have each length: element n counts those with n values."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))

    @classmethod
    def of(cls, lengths: np.ndarray) -> "LengthProfile":
        return cls(np.bincount(lengths, minlength=1))

    def merge(self, other: "LengthProfile") -> "LengthProfile":
        longer, shorter = sorted((self.counts, other.counts), key=len, reverse=True)
        return LengthProfile(longer + np.pad(shorter, (0, len(longer) - len(shorter))))

    def describe(self) -> dict[str, Any]:
        """Lists, their mean length, and quantiles of the lengths by percent; null without lists."""
        total = int(self.counts.sum())
        if not total:
            return {"lists": 0, "mean": None, "quantiles": None}
        # The smallest length that at least this share of the lists does not exceed.
        ranks = np.maximum(1, np.ceil(np.array(QUANTILES) * total))
        lengths = np.searchsorted(np.cumsum(self.counts), ranks).tolist()
        mean = float(np.dot(self.counts, np.arange(len(self.counts))) / total)
        named = {f"{100 * level:g}": length for level, length in zip(QUANTILES, lengths, strict=True)}
        return {"lists": total, "mean": mean, "quantiles": named}


@dataclass(frozen=True)
class ValueProfile:
    """Of an embedding table's values in training: how many are distinct, their number, and the most frequent ones."""

    num_distinct: int = 0
    num_values: int = 0
    top: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, counts: pa.Table) -> "ValueProfile":
        """Of value counts (columns value, count), each value once."""
        order = [("count", "descending"), ("value", "ascending")]
        top = counts.take(pc.select_k_unstable(counts, MAX_TOP_VALUES, order))
        values = [value[:MAX_VALUE_LENGTH] for value in top.column("value").to_pylist()]
        total = pc.sum(counts.column("count")).as_py() or 0
        return cls(len(counts), total, tuple(zip(values, top.column("count").to_pylist(), strict=True)))

    def merge(self, other: "ValueProfile") -> "ValueProfile":
        """With the profile of other values."""
        top = sorted(self.top + other.top, key=lambda pair: (-pair[1], pair[0]))[:MAX_TOP_VALUES]
        return ValueProfile(self.num_distinct + other.num_distinct, self.num_values + other.num_values, tuple(top))

    def describe(self) -> dict[str, Any]:
        """`top_values` is [[value, count], ...], the most frequent first, a tie by text; a long text is cut."""
        top = [list(pair) for pair in self.top]
        return {"distinct_values": self.num_distinct, "num_values": self.num_values, "top_values": top}
