"""The second pass, which sorts the rows of a piece and counts them by bin, and the third, which sums terms over units.

Shapes: N rows, B replicates, S slices of which the first is the whole split, C classes of a ranked task, or 1.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.evaluate.measure.measured import TRUTH, read_outputs, select_rows
from pipeline.evaluate.measure.parts import Frame, HashRange, Piece
from pipeline.evaluate.measure.survey import Fit
from pipeline.evaluate.metrics.catalogue import METRICS, SLICE_METRICS
from pipeline.evaluate.metrics.ranked import Bins, Curve, RankCounts, Ranks, write_run
from pipeline.evaluate.metrics.resample import count_units
from pipeline.evaluate.metrics.rows import FloatArray, IntArray, Rows, sum_terms
from pipeline.evaluate.prediction_table import Measured


class Key(NamedTuple):
    """The outputs of one model for one measured thing."""

    thing: str
    model: str


class RankKey(NamedTuple):
    """One class against the others, or the positives against the negatives, by the outputs of one model."""

    thing: str
    model: str
    place: int


@dataclass(frozen=True)
class Work:
    """What every piece and range is done with: the things with their models, the first slice of each dimension."""

    things: Sequence[tuple[Measured, Sequence[str]]]
    dimensions: Mapping[str, int]
    num_slices: int
    num_replicates: int
    fits: Mapping[Key, Fit]

    def slice_places(self, frame: Frame) -> list[IntArray]:
        """The slice of each row in each dimension, before them that of all rows: [N] each, -1 for none."""
        places = [frame.slice_places(name, first) for name, first in self.dimensions.items()]
        return [np.zeros(len(frame), np.int64), *places]


@dataclass
class PieceCounts:
    """Of a piece: its rows, its runs, the rows of each bin. Arrays that come from another process may be read-only."""

    rows: int
    runs: dict[RankKey, list[Path]] = field(default_factory=dict)
    ranked: dict[RankKey, RankCounts] = field(default_factory=dict)

    def add(self, other: "PieceCounts") -> None:
        self.rows += other.rows
        for key, counts in other.ranked.items():
            self.runs[key] += other.runs[key]
            self.ranked[key].add(counts)


def count_piece(work: Work, scratch: Path, numbered: tuple[int, Piece]) -> PieceCounts:
    """Writes the runs of a piece and counts its rows; the truth is not ranked within slices."""
    number, piece = numbered
    frame = Frame.of_piece(piece)
    slices = work.slice_places(frame)[1:]
    result = PieceCounts(len(frame))
    for thing, models in work.things:
        if thing.kind not in ("binary", "multiclass"):
            continue
        rows, label, weight = select_rows(frame, thing)
        for model in models:
            fit = work.fits[Key(thing.name, model)]
            columns = np.atleast_2d(read_outputs(frame, thing, model, rows).T)
            own = [] if model == TRUTH else [places[rows] for places in slices]
            num_slices = 1 if model == TRUTH else work.num_slices
            for place, bins in enumerate(fit.bins):
                is_positive = label == (place if thing.kind == "multiclass" else 1)
                signed_weight = np.where(is_positive, weight, -weight)
                key = RankKey(thing.name, model, place)
                path = scratch / f"{len(result.runs)}-{number:05d}.arrow"
                result.ranked[key] = write_run(path, columns[place], signed_weight, own, bins, num_slices)
                result.runs[key] = [path]
    return result


@dataclass
class RangeSums:
    """Of a range: its rows and units, the rows of each slice, [S], and by measured thing and model what is summed.

    `tallies` are rows, rows with label 1 and weight of each slice, [S, 3]; `not_finite`, [S], counts the rows whose
    outputs are not all finite; `sums`, [K, 1 + B] each, are by slice and metric.
    """

    rows: int
    units: int
    slice_rows: FloatArray
    tallies: dict[str, FloatArray] = field(default_factory=dict)
    not_finite: dict[Key, FloatArray] = field(default_factory=dict)
    sums: dict[tuple[Key, int], dict[str, FloatArray]] = field(default_factory=dict)

    def add(self, other: "RangeSums") -> None:
        self.rows += other.rows
        self.units += other.units
        self.slice_rows = self.slice_rows + other.slice_rows
        for name, tally in other.tallies.items():
            self.tallies[name] = self.tallies[name] + tally
        for key, number in other.not_finite.items():
            self.not_finite[key] = self.not_finite[key] + number
        for place, metrics in other.sums.items():
            mine = self.sums.get(place)
            self.sums[place] = {name: mine[name] + own for name, own in metrics.items()} if mine else metrics


def sum_range(work: Work, parts: Sequence[Path], weights: Mapping[RankKey, FloatArray], one: HashRange) -> RangeSums:
    """The sums of every metric over the units of a range and, of the slices' metrics, for each slice.

    `weights` are those of the positive and the negative rows of each ranking by slice and bin, [S, 2, bins].
    """
    frame = Frame.of_range(parts, one)
    counts = count_units(frame.unit_hash, work.num_replicates)
    slices = work.slice_places(frame)
    result = RangeSums(len(frame), len(frame.unit_hash), _tally(slices, work.num_slices, np.ones(len(frame))))
    for thing, models in work.things:
        places, label, weight = select_rows(frame, thing)
        own = [of_dimension[places] for of_dimension in slices]
        tallied = (np.ones(len(label)), (label == 1).astype(np.float64), weight)
        result.tallies[thing.name] = np.stack([_tally(own, work.num_slices, values) for values in tallied], axis=1)
        user, request = (None if group is None else group[places] for group in (frame.user, frame.request))
        for model in models:
            key = Key(thing.name, model)
            outputs = read_outputs(frame, thing, model, places)
            is_broken = np.where(np.isfinite(np.atleast_2d(outputs.T)).all(axis=0), 0.0, 1.0)
            result.not_finite[key] = _tally(own, work.num_slices, is_broken)
            rows = Rows(outputs, label, weight, frame.unit[places], user, request, work.fits[key].reference)
            with np.errstate(all="ignore"):
                for place, part, names in _divide(rows, key, thing.kind, own[1:], work.fits[key].bins, weights):
                    terms = {name: METRICS[thing.kind][name].terms(part) for name in names}
                    result.sums[key, place] = sum_terms(terms, counts[:, :1] if model == TRUTH else counts)
    return result


def _divide(
    rows: Rows,
    key: Key,
    kind: str,
    slices: Sequence[IntArray],
    bins: Sequence[Bins],
    weights: Mapping[RankKey, FloatArray],
) -> Iterator[tuple[int, Rows, Iterable[str]]]:
    """The place of each slice that has rows, those with their ranks in it, and what is measured; of truth, of all."""

    def curves(place: int) -> list[Curve]:
        return [Curve(weights[RankKey(*key, number)][place], own.is_atom) for number, own in enumerate(bins)]

    located = [own.locate(column) for own, column in zip(bins, np.atleast_2d(rows.prediction.T), strict=False)]
    rows = replace(rows, ranks=tuple(Ranks(*found, curve) for found, curve in zip(located, curves(0), strict=True)))
    yield 0, rows, [name for name, metric in METRICS[kind].items() if not metric.of_sample]
    for places in () if key.model == TRUTH else slices:
        sizes = np.bincount(places + 1)
        order = np.argsort(places.astype(np.min_scalar_type(-len(sizes))), kind="stable")
        ends = np.cumsum(sizes)
        for place in np.flatnonzero(sizes[1:]).tolist():
            yield place, rows.take(order[ends[place] : ends[place + 1]], curves(place)), SLICE_METRICS[kind]


def _tally(slices: Sequence[IntArray], num_slices: int, values: FloatArray) -> FloatArray:
    """The sum of the values of the rows of each slice."""
    total = np.zeros(num_slices + 1)
    for places in slices:
        total += np.bincount(places + 1, values, minlength=num_slices + 1)
    return total[1:]
