"""Measures rankings on a prediction table: some rankings on some whole units at a time, in bounded memory.

The units are halved by their hashes. A trial is chosen on the first half and reported on the second: the best of many
trials on the same rows looks better than it is.

Shapes: R rankings, M metrics, B replicates, U units, L lists, N rows. Sums are [R, M, 2 halves, 1 + B].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.errors import DataError
from pipeline.evaluate.measure.measured import select_rows
from pipeline.evaluate.measure.parts import Division, Frame, HashRange
from pipeline.evaluate.metrics.resample import count_units, mix
from pipeline.evaluate.metrics.rows import CountArray, FloatArray, IntArray, Terms
from pipeline.evaluate.prediction_table import PREDICTION_PREFIX, WEIGHT_COLUMN
from pipeline.executor import Executor, Progress
from pipeline.score.formula import parse_fusion
from pipeline.score.sweep.lists import Lists, discounts, places
from pipeline.score.sweep.trials import Plan

# So many rows are in memory at a time, in each process or thread, and so many rankings are measured on them.
MAX_RANGE_ROWS = 1 << 18
RANKINGS_PER_ITEM = 8
CHOOSING, REPORTING = 0, 1


class Sums(NamedTuple):
    """Of the rows, units and lists of a range, [2 halves] each, and of some rankings what is averaged and over what.

    `long_lists` are those of more than k rows; `over` is [M, 2, 1 + B], the same for every ranking; `not_finite`, [R],
    counts rows without a finite score.
    """

    rows: IntArray
    units: IntArray
    lists: IntArray
    long_lists: IntArray
    gained: FloatArray
    over: FloatArray
    not_finite: IntArray

    def add(self, other: "Sums") -> "Sums":
        """The sums of the same rankings on the rows of both."""
        return Sums._make(mine + own for mine, own in zip(self, other, strict=True))


@dataclass(frozen=True)
class Work:
    """What every item is done with."""

    plan: Plan
    outputs: Sequence[str]
    parts: Sequence[Path]
    num_replicates: int


def measure_rankings(
    plan: Plan,
    outputs: Sequence[str],
    parts: Sequence[Path],
    executor: Executor,
    num_replicates: int,
    progress: Progress | None,
) -> Sums:
    """The sums of all rankings over all units.

    Raises:
        DataError: a label or a weight is not what it must be, or there is no list.
    """
    division = Division.plan(parts, executor, MAX_RANGE_ROWS)
    chunks = range(0, len(plan.rankings), RANKINGS_PER_ITEM)
    items = list(product(chunks, division.ranges))
    totals: dict[int, Sums] = {}
    if progress:
        progress("parts of the sweep measured", 0, len(items), 0, "rows")
    work = Work(plan, outputs, parts, num_replicates)
    num_rows = 0
    for done, sums in enumerate(executor.map(partial(_measure_item, work), items)):
        chunk = items[done][0]
        before = totals.get(chunk)
        totals[chunk] = sums if before is None else before.add(sums)
        num_rows += int(sums.rows.sum()) * len(sums.gained)
        if progress:
            progress("parts of the sweep measured", done + 1, len(items), num_rows, "rows")
    first = totals[0]
    if not first.lists.all():
        raise DataError(
            f"of the {int(first.lists.sum()):,} lists to rank, one half of the users has none",
            "give a split with more users, or another split",
        )
    gained = np.concatenate([totals[chunk].gained for chunk in chunks])
    return first._replace(gained=gained, not_finite=np.concatenate([totals[chunk].not_finite for chunk in chunks]))


# What places are worth: for the value, and for NDCG.
VALUE_WAY, NDCG_WAY = 0, 1


class _Kind(NamedTuple):
    """Metrics of the same rows: the way of each, [M], their gains, [M, N], and by what a list's is divided, [M, L]."""

    metrics: list[int]
    ways: list[int]
    lists: Lists
    gains: FloatArray
    full: FloatArray


def _measure_item(work: Work, item: tuple[int, HashRange]) -> Sums:
    chunk, one = item
    frame = Frame.of_range(work.parts, one)
    half = (mix(frame.unit_hash) & np.uint64(1)).astype(np.int64)
    counts = count_units(frame.unit_hash, work.num_replicates)
    plan, kinds = work.plan, _kinds(work.plan, frame)
    rankings = plan.rankings[chunk : chunk + RANKINGS_PER_ITEM]
    columns = {name: frame.numbers(PREDICTION_PREFIX + name) for name in work.outputs}
    scores = [parse_fusion(ranking.formula, work.outputs)(columns) for ranking in rankings]
    not_finite = np.array([np.count_nonzero(~np.isfinite(score)) for score in scores])
    sums = np.zeros((len(rankings) + 1, len(plan.metrics), 2, counts.shape[1]))
    for kind in kinds:
        sums[:, kind.metrics] = _sum_kind(kind, scores, plan.k, half, counts)
    lists = next(kind.lists for kind in kinds if 0 in kind.metrics)
    return Sums(
        np.bincount(half[frame.unit], minlength=2),
        np.bincount(half, minlength=2),
        np.bincount(half[lists.unit], minlength=2),
        np.bincount(half[lists.unit[lists.size > plan.k]], minlength=2),
        sums[:-1],
        sums[-1],
        not_finite,
    )


def _sum_kind(kind: _Kind, scores: Sequence[FloatArray], k: int, half: IntArray, counts: CountArray) -> FloatArray:
    """What is averaged for each ranking and, last, over what: [R + 1, M, 2, 1 + B]."""
    lists, is_counted = kind.lists, kind.full > 0
    share = np.where(is_counted, lists.weight / np.where(is_counted, kind.full, 1.0), 0.0)
    cumulative = np.stack([places(k), discounts(k)])
    of_lists = []
    for score in scores:
        finite = np.where(np.isfinite(score), score, 0.0)[lists.rows]
        of_lists.append(lists.gained(kind.gains, lists.worth(finite, cumulative)[kind.ways]) * share)
    of_lists.append(np.where(is_counted, lists.weight, 0.0))
    sums = Terms(np.concatenate(of_lists), lists.unit, half[lists.unit], 2).sums(counts)
    return sums.reshape(2, len(of_lists), len(kind.metrics), -1).transpose(1, 2, 0, 3)


def _kinds(plan: Plan, frame: Frame) -> list[_Kind]:
    """The value and the NDCG of each task, those together whose labels are known in the same rows."""
    group = frame.user if frame.request is None else frame.request
    assert group is not None
    weight = frame.numbers(WEIGHT_COLUMN)
    labels = {}
    for objective in plan.objectives:
        rows, known, _ = select_rows(frame, objective.thing)
        labels[objective.task] = np.full(len(frame), np.nan)
        labels[objective.task][rows] = known
    value = np.sum([worth * labels[task] for task, worth in plan.values.items()], axis=0)
    # With gains below 0 a list could have no best order, or one that is worth nothing.
    gains = [value, *(np.maximum(labels[objective.task], 0.0) for objective in plan.objectives)]
    alike: dict[bytes, list[int]] = {}
    for metric, gain in enumerate(gains):
        alike.setdefault(np.isnan(gain).tobytes(), []).append(metric)
    kinds = []
    for metrics in alike.values():
        lists = Lists.of(np.where(np.isnan(gains[metrics[0]]), -1, group), weight, frame.unit)
        own = np.stack([gains[metric][lists.rows] for metric in metrics])
        full = np.ones((len(metrics), len(lists)))
        for place, metric in enumerate(metrics):
            if metric:
                full[place] = lists.gained(own[place], lists.worth(own[place], discounts(plan.k)[None])[0])
        ways = [NDCG_WAY if metric else VALUE_WAY for metric in metrics]
        kinds.append(_Kind(metrics, ways, lists, own, full))
    return kinds
