"""Ranked lists: what stands in the first k rows of each request's or user's list when it is sorted by a score.

Rows with equal scores share what their places are worth, as in evaluate/metrics/grouped.py (McSherry and Najork 2008);
here one sort serves all tasks.

Shapes: N rows, L lists, M gains of each row, P ways in which places are worth something.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.evaluate.metrics.rows import FloatArray, IntArray


@dataclass(frozen=True)
class Lists:
    """Rows by list, without those of none: their places and the list of each, [N]; where each begins, its rows, [L].

    `weight`, [L], is the mean of the rows' and `unit`, [L], that of the rows.
    """

    rows: IntArray
    list_of_row: IntArray
    start: IntArray
    size: IntArray
    weight: FloatArray
    unit: IntArray

    @classmethod
    def of(cls, group: IntArray, weight: FloatArray, unit: IntArray) -> "Lists":
        """The lists of rows, [N] each, by their groups, -1 for none; units ascend with the groups."""
        rows = np.argsort(group, kind="stable")[np.count_nonzero(group < 0) :]
        begins = np.diff(group[rows], prepend=-1) != 0
        start = np.flatnonzero(begins)
        size = np.diff(start, append=len(rows))
        mean_weight = _sum_lists(weight[rows], start) / size
        return cls(rows, np.cumsum(begins) - 1, start, size, mean_weight, unit[rows[start]])

    def __len__(self) -> int:
        return len(self.start)

    def worth(self, score: FloatArray, cumulative: FloatArray) -> FloatArray:
        """What the place of each of `rows` is worth, highest score first: [P, N].

        `cumulative`, [P, k + 1], is what the first 0 to k places are worth together, in P ways.
        """
        descending = np.argsort(-score)
        lists = self.list_of_row[descending]
        order = descending[np.argsort(lists.astype(np.min_scalar_type(len(self))), kind="stable")]
        sorted_score = score[order]
        begins_tie = np.ones(len(order), bool)
        begins_tie[1:] = sorted_score[1:] != sorted_score[:-1]
        begins_tie[self.start] = True
        tie_start = np.flatnonzero(begins_tie)
        size = np.diff(tie_start, append=len(order))
        above = tie_start - self.start[self.list_of_row[tie_start]]
        k = cumulative.shape[1] - 1
        shared = (cumulative[:, np.minimum(above + size, k)] - cumulative[:, np.minimum(above, k)]) / size
        worth = np.empty((len(cumulative), len(order)))
        worth[:, order] = np.repeat(shared, size, axis=1)
        return worth

    def gained(self, gains: FloatArray, worth: FloatArray) -> FloatArray:
        """What each list gains, [M, L], from the gains of its rows, [M, N], at places of that worth, [M, N] or [N]."""
        return _sum_lists(gains * worth, self.start)


def discounts(k: int) -> FloatArray:
    """What the first 0 to k places are worth in DCG (Järvelin and Kekäläinen 2002): 1 / log2(rank + 1) each."""
    return np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])


def places(k: int) -> FloatArray:
    """Each of the first k places is worth 1."""
    return np.arange(k + 1.0)


def _sum_lists(values: FloatArray, start: IntArray) -> FloatArray:
    if not len(start):
        return values[..., :0]
    sums: FloatArray = np.add.reduceat(values, start, axis=-1)
    return sums
