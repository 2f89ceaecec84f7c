"""Measures predictions: three passes over the parts of a prediction table, in bounded memory.

1. A sample of the rows is taken, from which the bins of predictions and the calibration buckets come (`survey`).
2. Rows are sorted by prediction into runs, which are merged to exact AUCs and average precisions (`ranked`).
3. The terms of every metric are summed, over the units as they are and over those of each bootstrap replicate.

Shapes: B replicates, S slices of which the first is the whole split, C classes of a ranked task, or 1.
"""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pipeline.evaluate.measure.measured import MODELS, TRUTH, output_columns
from pipeline.evaluate.measure.parts import Division, HashRange, Piece, read_layout
from pipeline.evaluate.measure.passes import Key, PieceCounts, RangeSums, RankKey, Work, count_piece, sum_range
from pipeline.evaluate.measure.results import Results
from pipeline.evaluate.measure.survey import Fit, Sample, sample_piece, sampled_rows
from pipeline.evaluate.metrics.catalogue import METRICS
from pipeline.evaluate.metrics.ranked import measure_rank_range, plan_rank_ranges
from pipeline.evaluate.metrics.resample import count_units
from pipeline.evaluate.metrics.rows import FloatArray
from pipeline.evaluate.prediction_table import REQUEST_COLUMN, USER_COLUMN, Measured
from pipeline.executor import Executor, Progress, counted

# So many rows are in memory at a time, in each process or thread, unless the units of one step of hashes have more.
MAX_RANGE_ROWS = 1 << 18

RangeT = TypeVar("RangeT", PieceCounts, RangeSums)


@dataclass(frozen=True)
class Measurement:
    """What was measured, as plain values that JSON can hold; `tasks`, `slices` and `gain` are those of the report."""

    num_rows: int
    unit: str
    num_units: int
    num_replicates: int
    tasks: list[dict[str, Any]]
    slices: list[dict[str, Any]]
    gain: dict[str, Any] | None


def measure(
    parts: Sequence[Path],
    things: Sequence[Measured],
    dimensions: Sequence[str],
    executor: Executor,
    *,
    num_replicates: int = 200,
    k: int = 10,
    min_slice_rows: int = 1000,
    progress: Progress | None = None,
) -> Measurement:
    """Every metric of every measured thing with its interval, and the main ones of the slices of some dimensions.

    `parts` are files of one folder, at least one; runs of sorted rows lie in a temporary folder beside them. Where
    they have the outputs of a baseline, it is measured on the same rows and compared.

    Raises:
        ArtifactError: the parts differ in their columns or in the values of a dimension.
        DataError: a label or a weight is not what it must be.
    """
    columns, values = read_layout(parts, dimensions)
    keys = [key for key in (USER_COLUMN, REQUEST_COLUMN) if key in columns]
    division = Division.plan(parts, executor, MAX_RANGE_ROWS)
    known = [(thing, [one for one in MODELS if {*output_columns(thing, one)} <= {*columns}]) for thing in things]
    samples = _take_samples(known, executor, division.pieces, progress)
    fits = {
        Key(thing.name, model): Fit.of(models, model, sample, thing.kind, k, MAX_RANGE_ROWS)
        for (thing, models), sample in zip(known, samples, strict=True)
        for model in models
    }
    slices = [("", ""), *((dimension, value) for dimension, own in values.items() for value in own)]
    firsts = {dimension: slices.index((dimension, own[0])) for dimension, own in values.items() if own}
    work = Work(known, firsts, len(slices), num_replicates, fits)
    with tempfile.TemporaryDirectory(dir=parts[0].parent, prefix=".runs-") as scratch:
        sorting = executor.map(partial(count_piece, work, Path(scratch)), enumerate(division.pieces))
        counts = _add_up(counted(sorting, "pieces sorted", len(division.pieces), lambda one: one.rows, progress))
        ranked = _merge_runs(work, counts, executor)
    sums = _sum_ranges(work, counts, parts, executor, division.ranges, progress)
    for (thing, models), sample in zip(known, samples, strict=True):
        _add_sampled(sums, thing, models, sample, num_replicates)
    results = Results(work, ranked, sums, slices, frozenset(keys), k)
    return Measurement(
        num_rows=division.num_rows,
        unit=(*keys, "row")[0],
        num_units=sums.units,
        num_replicates=num_replicates,
        tasks=results.describe_tasks(),
        slices=results.describe_slices(min_slice_rows),
        gain=results.compute_gain(),
    )


def _take_samples(
    things: Sequence[tuple[Measured, Sequence[str]]],
    executor: Executor,
    pieces: Sequence[Piece],
    progress: Progress | None,
) -> list[Sample]:
    """One per measured thing."""
    sampling = executor.map(partial(sample_piece, things), pieces)
    samples: list[Sample] = []
    for _, own in counted(sampling, "pieces sampled", len(pieces), lambda one: one[0], progress):
        samples = [a.merge(b) for a, b in zip(samples, own, strict=True)] if samples else own
    return samples


def _merge_runs(work: Work, counts: PieceCounts, executor: Executor) -> dict[RankKey, FloatArray]:
    """What is counted of each ranking and slice, [S, 4]: won pairs, precisions, weight of positives and negatives."""
    keys, ranges, ranked = [], [], {}
    for key, runs in counts.runs.items():
        bins = work.fits[Key(key.thing, key.model)].bins[key.place]
        own, sums = plan_rank_ranges(runs, bins, counts.ranked[key], MAX_RANGE_ROWS)
        ranked[key] = np.concatenate([sums, counts.ranked[key].sums()], axis=1)
        keys += [key] * len(own)
        ranges += own
    for key, sums in zip(keys, executor.map(measure_rank_range, ranges), strict=True):
        ranked[key][:, :2] += sums
    return ranked


def _sum_ranges(
    work: Work,
    counts: PieceCounts,
    parts: Sequence[Path],
    executor: Executor,
    ranges: Sequence[HashRange],
    progress: Progress | None,
) -> RangeSums:
    weights = {key: own.weights for key, own in counts.ranked.items()}
    summing = executor.map(partial(sum_range, work, parts, weights), ranges)
    return _add_up(counted(summing, "ranges measured", len(ranges), lambda one: one.rows, progress))


def _add_up(ranges: Iterable[RangeT]) -> RangeT:
    """What all ranges, at least one, have together."""
    results = iter(ranges)
    total = next(results)
    for one in results:
        total.add(one)
    return total


def _add_sampled(sums: RangeSums, thing: Measured, models: Sequence[str], sample: Sample, num_replicates: int) -> None:
    """The sums of the metrics that are computed on a sample."""
    for name, metric in METRICS[thing.kind].items():
        for model in models if metric.of_sample else ():
            rows, unit_hash = sampled_rows(models, model, sample)
            counts = count_units(unit_hash, 0 if model == TRUTH else num_replicates)
            with np.errstate(all="ignore"):
                sums.sums[Key(thing.name, model), 0][name] = metric.terms(rows).sums(counts)
