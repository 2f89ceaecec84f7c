"""What metrics are made of: the rows that are measured, sums over their units, and how a value comes from the sums.

Shapes: N rows, C classes of a multiclass task, M terms, K sums, U units, R columns of sums: the data themselves and,
after them, their bootstrap replicates.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.metrics.ranked import Curve, Ranks

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
CountArray = NDArray[np.uint8]

# A float32 sigmoid returns exactly 1 from a logit of about 17 on, and one such row would make the mean log loss
# infinite. 1e-7 is about the spacing of float32 below 1, so no distinction that float32 can make is lost there.
MIN_PROBABILITY = 1e-7
# So many cells are multiplied with their replicates' counts at a time: the counts stay in a core's cache.
BLOCK_CELLS = 1024


@dataclass(frozen=True)
class Reference:
    """What the metrics of one task and model refer to on all its rows, fitted on a sample of them.

    `shift` is a label near the middle, `buckets` are the upper ends of the calibration buckets but the last, and `k` is
    the length of a ranked list.
    """

    shift: float = 0.0
    buckets: FloatArray = field(default_factory=lambda: np.zeros(0))
    k: int = 10


@dataclass(frozen=True)
class Rows:
    """Some rows of one measured thing, in the order of their units, whole units at a time.

    prediction is a probability or a value per row, [N], or a probability per row and class, [N, C], where a label is
    the place of the class; label and weight are [N], unit, [N], is the place of the row's unit. user and request, [N],
    are places too, in the order of the units, -1 where a row has none, and None without such a key. ranks, one per
    class or one, says where the predictions stand among all rows.
    """

    prediction: FloatArray
    label: FloatArray
    weight: FloatArray
    unit: IntArray
    user: IntArray | None = None
    request: IntArray | None = None
    reference: Reference = Reference()
    ranks: tuple[Ranks, ...] = ()

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: IntArray, curves: Sequence[Curve]) -> "Rows":
        """Some of the rows, by their places, on the curves of their slice; without users and requests."""
        arrays = {name: getattr(self, name)[rows] for name in ("prediction", "label", "weight", "unit")}
        ranks = tuple(own.take(rows, curve) for own, curve in zip(self.ranks, curves, strict=True))
        return replace(self, **arrays, user=None, request=None, ranks=ranks)

    @cached_property
    def is_positive(self) -> NDArray[np.bool_]:
        positive: NDArray[np.bool_] = self.label == 1
        return positive

    @cached_property
    def loss(self) -> FloatArray:
        """The log loss of each row, with the prediction clipped to [1e-7, 1 - 1e-7]."""
        if self.prediction.ndim == 2:
            given = self.prediction[np.arange(len(self)), self.label.astype(np.int64)]
        else:
            given = np.where(self.is_positive, self.prediction, 1 - self.prediction)
        return -np.log(np.clip(given, MIN_PROBABILITY, 1 - MIN_PROBABILITY))

    @cached_property
    def ascending(self) -> IntArray:
        """The places of the rows in the order of their predictions."""
        return np.argsort(self.prediction)


@dataclass(frozen=True)
class Terms:
    """What is summed: values [K, M], each of a unit, [M], in the order of the units.

    With slots, [M], each slot has K sums of its own, those of the first one first.
    """

    values: FloatArray
    unit: IntArray
    slot: IntArray | None = None
    num_slots: int = 1

    def sums(self, counts: CountArray) -> FloatArray:
        """The sums over all units, each counted as often as `counts` [U, R] says: [num_slots * K, R]."""
        if self.slot is None:
            return _count_cells(*_cells(self.values, self.unit), counts)
        order = np.argsort(self.slot.astype(np.min_scalar_type(self.num_slots)), kind="stable")
        ends = np.cumsum(np.bincount(self.slot, minlength=self.num_slots))
        slots = [order[end - size : end] for end, size in zip(ends, np.diff(ends, prepend=0), strict=True)]
        return np.concatenate([_count_cells(*_cells(self.values[:, rows], self.unit[rows]), counts) for rows in slots])


def sum_terms(terms: Mapping[str, Terms], counts: CountArray) -> dict[str, FloatArray]:
    """The sums of several metrics; those with a value for every row are computed in one go."""
    sums = {}
    alike: dict[int, list[str]] = {}
    for name, one in terms.items():
        if one.slot is None:
            alike.setdefault(id(one.unit), []).append(name)
        else:
            sums[name] = one.sums(counts)
    for names in alike.values():
        values = np.concatenate([terms[name].values for name in names])
        together = Terms(values, terms[names[0]].unit).sums(counts)
        ends = np.cumsum([len(terms[name].values) for name in names])
        sums |= zip(names, np.split(together, ends[:-1]), strict=True)
    return {name: sums[name] for name in terms}


def _cells(values: FloatArray, unit: IntArray) -> tuple[FloatArray, IntArray]:
    """The sums of each unit that has a value, [K, cells], and the units."""
    if not len(unit):
        return values, unit
    starts = np.flatnonzero(np.diff(unit, prepend=-1))
    return (values, unit) if len(starts) == len(unit) else (np.add.reduceat(values, starts, axis=1), unit[starts])


def _count_cells(values: FloatArray, unit: IntArray, counts: CountArray) -> FloatArray:
    sums = np.zeros((len(values), counts.shape[1]))
    for first in range(0, len(unit), BLOCK_CELLS):
        block = slice(first, first + BLOCK_CELLS)
        sums += values[:, block] @ counts[unit[block]].astype(np.float64)
    return sums


@dataclass(frozen=True)
class Metric:
    """How a metric is computed from sums over units.

    `terms` gives what is summed, `value` the value of each column of sums [K, R]: the first is that of the data, which
    the others may refer to; NaN where undefined. `describe_undefined` says why the first is, in a few words, or None if
    numbers are only too large. `key` names the key that the metric needs. `exact` gives the value of the data from what
    was counted of the ranked rows: per class, [C, 4], won pairs, precisions at the positives, weight of the positives
    and of the negatives (`measure_rank_range`). One that is `of_sample` is computed on a sample. `chance` is the value
    that it has without any skill, `bounds` what no value is beyond.
    """

    terms: Callable[[Rows], Terms]
    value: Callable[[FloatArray], FloatArray]
    better: Literal["higher", "lower", "nearer 1"] = "higher"
    describe_undefined: Callable[[FloatArray], str | None] | None = None
    key: Literal["user", "request"] | None = None
    exact: Callable[[FloatArray], float] | None = None
    of_sample: bool = False
    chance: float | None = None
    bounds: tuple[float, float] = (0.0, math.inf)
