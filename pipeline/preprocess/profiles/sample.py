"""Samples of a column in bounded memory: the rows whose numbers have the smallest hashes, however rows are divided."""

import base64
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Self

import numpy as np


class RowOrder(NamedTuple):
    """Rows in the order of the hashes of their numbers, which no other row of the log has."""

    places: np.ndarray
    hashes: np.ndarray

    @classmethod
    def of(cls, row_numbers: np.ndarray) -> "RowOrder":
        hashes = _scatter(row_numbers.astype(np.uint64))
        order = np.argsort(hashes)
        return cls(order, hashes[order])


@dataclass(frozen=True)
class Sample:
    """The numbers of the `max_rows` rows with the smallest hashes, in their order: of all rows if there are no more.

    Merging in any order gives the sample of all rows.
    """

    max_rows: ClassVar[int] = 5_000

    hashes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    values: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def of(cls, values: np.ndarray, order: RowOrder) -> Self:
        """Of float64 values, NaN for none, whose rows have an order."""
        first = order.places[: 2 * cls.max_rows]
        if np.count_nonzero(~np.isnan(values[first])) < cls.max_rows:
            first = order.places
        kept = np.flatnonzero(~np.isnan(values[first]))[: cls.max_rows]
        return cls(order.hashes[kept], values[first[kept]])

    def merge(self, other: Self) -> Self:
        return type(self)(np.append(self.hashes, other.hashes), np.append(self.values, other.values))._cut()

    def _cut(self) -> Self:
        hashes, values = self.hashes, self.values
        if len(hashes) > self.max_rows:
            kept = np.argpartition(hashes, self.max_rows - 1)[: self.max_rows]
            hashes, values = hashes[kept], values[kept]
        order = np.argsort(hashes)
        return type(self)(hashes[order], values[order])

    def to_text(self) -> str:
        return base64.b64encode(self.hashes.astype("<u8").tobytes() + self.values.astype("<f8").tobytes()).decode()

    @classmethod
    def from_text(cls, text: str) -> Self:
        """What `to_text` gave."""
        hashes, values = np.split(np.frombuffer(base64.b64decode(text), "<u8"), 2)
        return cls(hashes, values.view("<f8"))


class QuantileSample(Sample):
    """Enough rows to cut a column into buckets: the share of one is off by some 0.002."""

    max_rows = 1 << 16

    def boundaries(self, num_buckets: int) -> tuple[float, ...]:
        """What cuts the numbers into buckets of an equal share each; fewer buckets where numbers occur often."""
        ordered = np.sort(self.values)
        if not len(ordered):
            return ()
        cuts = np.unique(ordered[len(ordered) * np.arange(1, num_buckets) // num_buckets])
        return tuple(cuts[cuts > ordered[0]].tolist())


def _scatter(numbers: np.ndarray) -> np.ndarray:
    """SplitMix64 (Steele, Lea and Flood 2014): a bijection of 64-bit integers, so no two rows have one hash."""
    with np.errstate(over="ignore"):
        mixed = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scattered: np.ndarray = mixed ^ (mixed >> np.uint64(31))
    return scattered
