"""Exact AUC and average precision of many slices, from runs of rows that are sorted by prediction and merged in order.

The predictions are cut into bins, and each bin's positive and negative weight is counted per slice. That tells how much
lies below a range of bins, so ranges are measured one by one, in any order, with the rows of one range in memory. The
same counts say where a prediction stands among all others, which is what the bootstrap replicates are made from.

Shapes: N rows, B bins, S slices of which the first is the whole split, D dimensions of slices.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# With so many, replicates of the average precision vary as those of rows do, also where few rows are positive.
MIN_BINS = 512
POSITIVE, NEGATIVE = 0, 1


@dataclass(frozen=True)
class Bins:
    """Bin b holds the predictions from cuts[b - 1] on and below cuts[b]; those of an atom are all equal."""

    cuts: FloatArray
    is_atom: NDArray[np.bool_]

    @classmethod
    def of(cls, sample: FloatArray, is_positive: NDArray[np.bool_], num_bins: int) -> "Bins":
        """At least `num_bins` bins, none with more than about an equal share of the rows, or of the positive ones.

        A value with more rows than that is an atom. Where positives are rare, they are what average precision is about.
        """
        is_finite = np.isfinite(sample)
        values, counts = np.unique(sample[is_finite], return_counts=True)
        atoms = values[counts * num_bins > is_finite.sum()]
        limits = [values[:1], np.nextafter(values[-1:], np.inf), atoms, np.nextafter(atoms, np.inf)]
        for chosen in (is_finite, is_finite & is_positive):
            ordered = np.sort(sample[chosen])
            places = len(ordered) * np.arange(1, num_bins) // num_bins
            limits.append(ordered[places] if len(ordered) else ordered)
        cuts = np.unique(np.concatenate(limits))
        is_atom = np.zeros(len(cuts) + 1, bool)
        is_atom[1:-1] = np.nextafter(cuts[:-1], np.inf) == cuts[1:]
        return cls(cuts, is_atom)

    def __len__(self) -> int:
        return len(self.is_atom)

    def limits(self, first: int, end: int) -> tuple[float, float]:
        """The bins from the first to the one before `end` hold the predictions from the first of these on."""
        return (
            float(self.cuts[first - 1]) if first else -np.inf,
            float(self.cuts[end - 1]) if end < len(self) else np.inf,
        )

    def locate(self, prediction: FloatArray) -> tuple[IntArray, FloatArray]:
        """The bin of each prediction, and where in it: from 0 to 1, and in the middle if the bin is no interval."""
        bins = np.searchsorted(self.cuts, prediction, side="right")
        left, width = np.zeros(len(self)), np.full(len(self), np.inf)
        is_interval = ~self.is_atom[1:-1]
        left[1:-1] = self.cuts[:-1]
        width[1:-1][is_interval] = np.diff(self.cuts)[is_interval]
        middle = np.where(np.isfinite(width), 0.0, 0.5)
        return bins, middle[bins] + (prediction - left[bins]) / width[bins]


class Curve:
    """At the edges of the bins of one slice, [B + 1]: shares of weight on one side, and what average precision needs.

    `negatives_below` and `positives_above` are shares of their class. `precision` is that of the rows from an edge on.
    A little more positive weight on a row adds to the precision at the positives below it, in sum `gain`; a little more
    negative weight takes `loss` from it.
    """

    def __init__(self, weights: FloatArray, is_atom: NDArray[np.bool_]) -> None:
        """`weights` are those of the positive and of the negative rows, [2, B]."""
        self.is_atom = is_atom
        # Both are sums: where no row is below, or above, exactly 0.
        below = np.concatenate([np.zeros((2, 1)), np.cumsum(weights, axis=1)], axis=1)
        above = np.concatenate([np.cumsum(weights[:, ::-1], axis=1)[:, ::-1], np.zeros((2, 1))], axis=1)
        totals = np.where(below[:, -1:] > 0, below[:, -1:], 1.0)
        self.negatives_below = below[NEGATIVE] / totals[NEGATIVE]
        self.positives_above = above[POSITIVE] / totals[POSITIVE]
        # In the upper bins there may be no row: the precision is that of the last ones.
        num = int(np.count_nonzero(above.sum(axis=0) > 0))
        self.precision = np.zeros(below.shape[1])
        self.precision[:num] = above[POSITIVE, :num] / above[:, :num].sum(axis=0)
        self.precision[num:] = self.precision[num - 1] if num else 0.0
        # Of an atom's rows each counts as not below the others; of those of an interval one half do.
        middle = np.where(is_atom, above[:, :-1], (above[:, :-1] + above[:, 1:]) / 2)
        squares = np.square(middle.sum(axis=0))
        slopes = weights[POSITIVE] * middle[::-1] / np.where(squares > 0, squares, 1.0)
        self.gain, self.loss = np.concatenate([np.zeros((2, 1)), np.cumsum(slopes, axis=1)], axis=1)


@dataclass(frozen=True)
class Ranks:
    """Where rows stand on a curve: their bins, [N], and the place in the bin, from 0 to 1."""

    bins: IntArray
    place: FloatArray
    curve: Curve

    def take(self, rows: IntArray, curve: Curve) -> "Ranks":
        """Some of the rows, by their places, on the curve of a slice."""
        return Ranks(self.bins[rows], self.place[rows], curve)

    def negatives_below(self) -> FloatArray:
        """The share of the negative weight below each row; of equal predictions, one half."""
        return self._interpolate(self.curve.negatives_below, self.place)

    def positives_above(self) -> FloatArray:
        return self._interpolate(self.curve.positives_above, self.place)

    def precision_slopes(self) -> tuple[FloatArray, FloatArray]:
        """How the sum of the positives' precisions grows with the weight of each row: if positive, and if negative."""
        is_atom = self.curve.is_atom[self.bins]
        precision = self._interpolate(self.curve.precision, np.where(is_atom, 0.0, self.place))
        place = np.where(is_atom, 1.0, self.place)
        gain = self._interpolate(self.curve.gain, place)
        return precision + gain, -self._interpolate(self.curve.loss, place)

    def _interpolate(self, edges: FloatArray, place: FloatArray) -> FloatArray:
        low: FloatArray = edges[self.bins]
        return low + place * (edges[self.bins + 1] - low)


class RankCounts:
    """Rows of each bin, [B], and positive and negative weight of each slice and bin, [S, 2, B]."""

    def __init__(self, rows: IntArray, weights: FloatArray) -> None:
        self.rows = rows
        self.weights = weights

    def add(self, other: "RankCounts") -> None:
        self.rows = self.rows + other.rows
        self.weights = self.weights + other.weights

    def plan(self, max_rows: int) -> Iterator[tuple[int, int]]:
        """Ranges of bins with at most so many rows; a bin with more is a range by itself."""
        first, rows = 0, 0
        for place, size in enumerate(self.rows.tolist()):
            if rows and rows + size > max_rows:
                yield first, place
                first, rows = place, 0
            rows += size
        if rows:
            yield first, len(self.rows)

    def sums(self) -> FloatArray:
        """Weight of the positive and of the negative rows, [S, 2]."""
        total: FloatArray = self.weights.sum(axis=2)
        return total


def write_run(
    path: Path,
    prediction: FloatArray,
    signed_weight: FloatArray,
    slices: Sequence[IntArray],
    bins: Bins,
    num_slices: int,
) -> RankCounts:
    """Writes rows in the order of their predictions, and counts them.

    The weight of a negative row is negative. `slices`, D times [N], are the places of the row's slices among all, -1
    where a row has none. Rows without a weight, and those whose prediction is not finite, are left out.
    """
    kept = np.flatnonzero(np.isfinite(prediction) & (signed_weight != 0))
    kept = kept[np.argsort(prediction[kept])]
    prediction, signed_weight = prediction[kept], signed_weight[kept]
    slices = [one[kept] for one in slices]
    ends = np.searchsorted(prediction, bins.cuts, side="left")
    rows = np.diff(ends, prepend=0, append=len(prediction))
    place = np.repeat(np.arange(len(bins)), rows) + np.where(signed_weight > 0, POSITIVE, NEGATIVE) * len(bins)
    size = np.abs(signed_weight)
    flat = np.zeros(num_slices * 2 * len(bins))
    flat[: 2 * len(bins)] = np.bincount(place, size, minlength=2 * len(bins))
    for one in slices:
        has_slice = one >= 0
        cell = one[has_slice] * (2 * len(bins)) + place[has_slice]
        flat += np.bincount(cell, size[has_slice], minlength=len(flat))
    columns = {"prediction": prediction, "weight": signed_weight}
    columns |= {f"slice_{number}": one.astype(np.int32) for number, one in enumerate(slices)}
    batch = pa.RecordBatch.from_pydict(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return RankCounts(rows, flat.reshape(num_slices, 2, len(bins)))


class RankRange(NamedTuple):
    """A range of bins of one ranking: its runs, the limits of its predictions, and the weights below it, [S, 2]."""

    runs: Sequence[Path]
    limits: tuple[float, float]
    below: FloatArray
    totals: FloatArray


def plan_rank_ranges(
    runs: Sequence[Path], bins: Bins, counts: RankCounts, max_rows: int
) -> tuple[list[RankRange], FloatArray]:
    """The ranges that have to be read, and the sums, [S, 2], of those that need not be: atoms with too many rows."""
    below = np.cumsum(counts.weights, axis=2) - counts.weights
    totals = counts.sums()
    ranges, sums = [], np.zeros_like(totals)
    for first, end in counts.plan(max_rows):
        if bins.is_atom[first] and end == first + 1 and counts.rows[first] > max_rows:
            size = counts.weights[:, :, first]
            sums += np.stack(_pair_sums(size, below[:, :, first], totals), axis=1)
        else:
            ranges.append(RankRange(runs, bins.limits(first, end), below[:, :, first], totals))
    return ranges, sums


def measure_rank_range(one: RankRange) -> FloatArray:
    """Per slice, [S, 2]: by weight, the pairs that a positive of the range wins, and the precisions at the positives.

    A pair is a positive and a negative row, and a tie one half. The precision at a row is that of the rows that are not
    below it.
    """
    prediction, weight, *slices = _read_runs(one)
    order = np.argsort(prediction, kind="stable")
    prediction, weight = prediction[order], weight[order]
    sums = _slice_sums(one, prediction, weight, np.zeros(len(order), np.int64))
    for column in slices:
        places = column[order]
        by_slice = np.argsort(places.astype(np.int16 if len(one.totals) < 1 << 15 else np.int32), kind="stable")
        by_slice = by_slice[np.count_nonzero(places < 0) :]
        sums += _slice_sums(one, prediction[by_slice], weight[by_slice], places[by_slice].astype(np.int64))
    return sums


def _read_runs(one: RankRange) -> list[NDArray[Any]]:
    """The columns of the rows of a range, of all runs together."""
    parts = []
    for path in one.runs:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            columns = [np.asarray(column) for column in reader.get_batch(0).columns]
        first, end = np.searchsorted(columns[0], one.limits, side="left")
        parts.append([column[first:end] for column in columns])
    return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]


def _slice_sums(one: RankRange, prediction: FloatArray, weight: FloatArray, place: IntArray) -> FloatArray:
    """The sums of rows in the order of their slices, given by their places, and then of their predictions."""
    if not len(place):
        return np.zeros_like(one.totals)
    begins_slice = np.concatenate([[True], place[1:] != place[:-1]])
    starts = np.flatnonzero(begins_slice | np.concatenate([[True], prediction[1:] != prediction[:-1]]))
    size = np.add.reduceat([np.maximum(weight, 0), np.maximum(-weight, 0)], starts, axis=1).T
    before = np.cumsum(size, axis=0) - size
    first_of_slice = np.flatnonzero(begins_slice[starts])
    lengths = np.diff(first_of_slice, append=len(starts))
    place = place[starts]
    below = before - np.repeat(before[first_of_slice], lengths, axis=0) + one.below[place]
    sums = _pair_sums(size, below, one.totals[place])
    return np.stack([np.bincount(place, column, minlength=len(one.totals)) for column in sums], axis=1)


def _pair_sums(size: FloatArray, below: FloatArray, totals: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Won pairs and precisions of groups of equal predictions; weight of a group, below it, and in all: [groups, 2]."""
    positive, negative = size.T
    wins = positive * (below[:, NEGATIVE] + negative / 2)
    above = totals - below
    is_counted = positive > 0
    precision = np.divide(above[:, POSITIVE], above.sum(axis=1), out=np.zeros(len(size)), where=is_counted)
    return wins, positive * precision
