"""Metrics inside each user's or each request's rows, averaged over users or requests.

Where rows of a request have equal predictions, ranked lists are averaged over all orders of these rows (McSherry and
Najork 2008, "Computing information retrieval performance measures efficiently in the presence of tied scores").

Shapes: N rows, G groups (users or requests), T ties: runs of equal predictions inside a group.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.metrics.rows import FloatArray, IntArray, Rows, Terms

NumberT = TypeVar("NumberT", np.float64, np.int64)


def gauc(rows: Rows) -> Terms:
    """The AUC inside each user's rows, averaged with the number of rows as weight; users with one class are left out.

    sum_u n_u AUC_u / sum_u n_u, where n_u is the sum of the row's weights. Rows without a user are left out too. Zhu et
    al. 2017, "Optimized cost per click in Taobao display advertising".
    """
    return _mean_auc(rows, rows.user, is_weighted=True)


def unweighted_gauc(rows: Rows) -> Terms:
    """The AUC inside each user's rows, averaged over the users who have both classes, each with equal weight."""
    return _mean_auc(rows, rows.user, is_weighted=False)


def request_gauc(rows: Rows) -> Terms:
    """The AUC inside each request's rows, averaged as GAUC is; requests with one class are left out.

    How well a list is ordered, whatever the user's other lists.
    """
    return _mean_auc(rows, rows.request, is_weighted=True)


def ndcg(rows: Rows) -> Terms:
    """How high a request's positives stand in its first k rows, 1 being the best order; a mean over requests.

    DCG@k / best DCG@k with gain 1 for a positive and discount 1 / log2(rank + 1), for requests with a positive row.
    Rows with equal predictions share the discounts of their ranks. A request counts with the mean weight of its rows.
    Järvelin and Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques".
    """
    lists = _Lists.of(rows)
    ranks = np.arange(1, rows.reference.k + 1)
    discounts = np.concatenate([[0.0], np.cumsum(1 / np.log2(ranks + 1))])
    best = discounts[np.minimum(lists.positives, rows.reference.k)]
    return lists.mean(lists.sum_first(discounts) / np.where(best > 0, best, 1.0))


def recall(rows: Rows) -> Terms:
    """The share of a request's positives among its first k rows; a mean over requests with a positive.

    Requests count as in NDCG.
    """
    lists = _Lists.of(rows)
    found = lists.sum_first(np.arange(rows.reference.k + 1.0))
    return lists.mean(found / np.maximum(lists.positives, 1))


def mrr(rows: Rows) -> Terms:
    """One over the rank of a request's first positive row; a mean over requests with a positive.

    Requests count as in NDCG. Of n rows with equal predictions, r of them positive, the first positive one is the j-th
    with the chance binom(n - j, r - 1) / binom(n, r).
    """
    lists = _Lists.of(rows)
    groups = lists.groups
    # The tie with the first positive is the last one with a positive, in the order of predictions.
    has_positive = np.flatnonzero(lists.tie_positives)
    last = has_positive[np.flatnonzero(np.diff(groups.group_of_tie[has_positive], append=-1))]
    above, size, positives = lists.above[last], groups.tie_size[last], lists.tie_positives[last]
    tie = np.repeat(np.arange(len(last)), size)
    rank = np.arange(len(tie)) - np.repeat(np.cumsum(size) - size, size) + 1
    left, further = size[tie] - rank, positives[tie] - 1
    is_possible = left >= further
    tie, rank, left, further = (one[is_possible] for one in (tie, rank, left, further))
    log_chance = _log_binomial(left, further) - _log_binomial(size, positives)[tie]
    value = np.zeros(len(lists.positives))
    value[groups.group_of_tie[last]] = np.bincount(tie, np.exp(log_chance) / (above[tie] + rank), minlength=len(last))
    return lists.mean(value)


def _log_binomial(n: IntArray, r: IntArray) -> FloatArray:
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, n.max(initial=0) + 1)))])
    chosen: FloatArray = log_factorial[n] - log_factorial[r] - log_factorial[n - r]
    return chosen


@dataclass(frozen=True)
class _Groups:
    """Rows by group and then by prediction, [N], without those of no group; where each tie and each group starts.

    `tie_start` and `tie_size` are [T], in rows, as is `group_of_tie`; `start` and `size` are [G], in rows, and
    `first_tie` in ties.
    """

    rows: IntArray
    tie_start: IntArray
    tie_size: IntArray
    group_of_tie: IntArray
    start: IntArray
    size: IntArray
    first_tie: IntArray

    @classmethod
    def of(cls, rows: Rows, group: IntArray) -> "_Groups":
        ascending = rows.ascending
        key = group[ascending] + 1
        order = ascending[np.argsort(key.astype(np.min_scalar_type(key.max(initial=0))), kind="stable")]
        order = order[np.count_nonzero(group < 0) :]
        group, prediction = group[order], rows.prediction[order]
        begins_group = np.diff(group, prepend=-1) != 0
        begins_tie = begins_group.copy()
        begins_tie[1:] |= prediction[1:] != prediction[:-1]
        start, tie_start = np.flatnonzero(begins_group), np.flatnonzero(begins_tie)
        return cls(
            order,
            tie_start,
            np.diff(tie_start, append=len(order)),
            np.cumsum(begins_group[tie_start]) - 1,
            start,
            np.diff(start, append=len(order)),
            np.searchsorted(tie_start, start),
        )


def _mean_auc(rows: Rows, group: IntArray | None, is_weighted: bool) -> Terms:
    if group is None or not (group >= 0).any():
        return Terms(np.zeros((2, 0)), np.zeros(0, np.int64))
    groups = _Groups.of(rows, group)
    is_positive, weight = rows.is_positive[groups.rows], rows.weight[groups.rows]
    classes = np.stack([np.where(is_positive, weight, 0.0), np.where(is_positive, 0.0, weight)])
    positive, negative = np.add.reduceat(classes, groups.tie_start, axis=1)
    below = np.cumsum(negative) - negative
    below -= below[groups.first_tie][groups.group_of_tie]
    wins = np.add.reduceat(positive * (below + negative / 2), groups.first_tie)
    positives, negatives = (np.add.reduceat(one, groups.first_tie) for one in (positive, negative))
    has_both = (positives > 0) & (negatives > 0)
    value = wins[has_both] / (positives * negatives)[has_both]
    size = (positives + negatives)[has_both] if is_weighted else np.ones(len(value))
    return Terms(np.stack([size * value, size]), rows.unit[groups.rows[groups.start[has_both]]])


@dataclass(frozen=True)
class _Lists:
    """Requests as ranked lists: of each tie, [T], its positives and the rows above it; of each list its positives."""

    groups: _Groups
    tie_positives: IntArray
    above: IntArray
    positives: IntArray
    weight: FloatArray
    unit: IntArray

    @classmethod
    def of(cls, rows: Rows) -> "_Lists":
        group = np.full(len(rows), -1) if rows.request is None else rows.request
        groups = _Groups.of(rows, group)
        end = (groups.start + groups.size)[groups.group_of_tie]
        tie_positives = _sum_runs(rows.is_positive[groups.rows].astype(np.int64), groups.tie_start)
        return cls(
            groups,
            tie_positives,
            end - groups.tie_start - groups.tie_size,
            _sum_runs(tie_positives, groups.first_tie),
            _sum_runs(rows.weight[groups.rows], groups.start) / groups.size,
            rows.unit[groups.rows[groups.start]],
        )

    def sum_first(self, cumulative: FloatArray) -> FloatArray:
        """The sum over each list's positives of what their ranks are worth; cumulative, [k + 1], begins with 0."""
        last = len(cumulative) - 1
        size = self.groups.tie_size
        worth = cumulative[np.minimum(self.above + size, last)] - cumulative[np.minimum(self.above, last)]
        return _sum_runs(self.tie_positives / size * worth, self.groups.first_tie)

    def mean(self, value: FloatArray) -> Terms:
        """The mean of a value of each list over those that have a positive."""
        weight = np.where(self.positives > 0, self.weight, 0.0)
        return Terms(np.stack([weight * value, weight]), self.unit)


def _sum_runs(values: NDArray[NumberT], starts: IntArray) -> NDArray[NumberT]:
    return np.add.reduceat(values, starts) if len(starts) else values[:0]
