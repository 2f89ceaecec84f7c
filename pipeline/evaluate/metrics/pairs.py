"""Metrics of how rows are ranked among all others: each row is compared with every other one.

The values of AUC and average precision come from `ranked`, exactly. Their replicates come from the first-order
expansion of the value in the weights of the rows: what a row adds is a function of where its prediction stands. For the
AUC that is the variance of DeLong et al. 1988 ("Comparing the areas under two or more correlated receiver operating
characteristic curves"), with units of several rows as in Obuchowski 1997 ("Nonparametric analysis of clustered ROC
curve data").
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.metrics.rows import FloatArray, IntArray, Rows, Terms


def auc(rows: Rows) -> Terms:
    """The chance that a random positive row is scored above a random negative one; a tie counts one half.

    sum_{i positive, j negative} w_i w_j ([p_i > p_j] + [p_i = p_j] / 2) over the sum of all w_i w_j. Hanley and McNeil
    1982, "The meaning and use of the area under a ROC curve".
    """
    return _ranked_against(rows, 0, rows.is_positive)


def mean_auc(rows: Rows) -> Terms:
    """The AUC of each class against all others, averaged over the classes that occur, each with equal weight.

    A class that no row has, or every row, is left out, since its AUC is undefined. Not the pairwise mean of Hand and
    Till 2001.
    """
    classes = [_ranked_against(rows, place, rows.label == place).values for place in range(len(rows.ranks))]
    return Terms(np.concatenate(classes), rows.unit)


def _ranked_against(rows: Rows, place: int, is_positive: NDArray[np.bool_]) -> Terms:
    """Of the positives: the weight, and its part that is above a random negative row. Of the negatives likewise."""
    ranks = rows.ranks[place]
    positive, negative = np.where(is_positive, rows.weight, 0.0), np.where(is_positive, 0.0, rows.weight)
    wins = np.where(is_positive, ranks.negatives_below(), ranks.positives_above())
    return Terms(np.stack([positive * wins, positive, negative * wins, negative]), rows.unit)


def value_of_auc(sums: FloatArray) -> FloatArray:
    """Both means estimate the AUC; to first order, their deviations from it add up to that of the AUC."""
    of_positives, of_negatives = sums[0] / sums[1], sums[2] / sums[3]
    value: FloatArray = of_positives + of_negatives - of_positives[0]
    return value


def value_of_mean_auc(sums: FloatArray) -> FloatArray:
    by_class = sums.reshape(-1, 4, sums.shape[1])
    defined = [one for one in by_class if one[1, 0] > 0 and one[3, 0] > 0]
    return np.mean([value_of_auc(one) for one in defined], axis=0) if defined else np.full(sums.shape[1], np.nan)


def exact_mean_auc(ranked: FloatArray) -> float:
    """From what `ranked` counts for each class; NaN if no class has rows on both sides."""
    wins, _, positives, negatives = ranked.T
    pairs = positives * negatives
    return float(np.mean(wins[pairs > 0] / pairs[pairs > 0])) if (pairs > 0).any() else np.nan


def average_precision(rows: Rows) -> Terms:
    """The precision among the rows scored at least as high as a positive one, averaged over the positives (PR-AUC).

    sum_k (R_k - R_(k-1)) P_k over the distinct predictions from the highest down, with R the recall and P the
    precision, as scikit-learn computes it: without interpolation, which Davis and Goadrich 2006 show to be too
    optimistic.
    """
    if_positive, if_negative = rows.ranks[0].precision_slopes()
    added = np.where(rows.is_positive, if_positive, if_negative)
    return Terms(np.stack([rows.weight * added, np.where(rows.is_positive, rows.weight, 0.0)]), rows.unit)


def exact_average_precision(ranked: FloatArray) -> float:
    """From what `ranked` counts; NaN without a positive row."""
    (_, precisions, positives, _) = ranked[0]
    return float(precisions / positives) if positives else np.nan


def xauc(rows: Rows) -> Terms:
    """The chance that of two rows with different labels the one with the larger label is predicted larger.

    A tie counts one half. All pairs of rows are counted, of a sample of at most 100,000 rows. Zhan et al. 2022,
    "Deconfounding duration bias in watch-time prediction for video recommendation".
    """
    label, prediction, weight = _rank(rows.label), _rank(rows.prediction), rows.weight
    num_values = int(max(label.max(initial=0), prediction.max(initial=0))) + 1
    both = np.unique(label * num_values + prediction, return_inverse=True)[1]
    of_label, of_prediction, of_both = (np.bincount(one, weight)[one] for one in (label, prediction, both))
    wins = _sum_below(label, prediction, weight) + _sum_below(-label, -prediction, weight)
    wins += (of_prediction - of_both) / 2
    # Summed as `of_label` is: if all labels are equal, exactly 0 is left.
    total = np.bincount(np.zeros_like(label), weight).sum()
    return Terms(np.stack([weight * wins, weight * (total - of_label)]), rows.unit)


def value_of_xauc(sums: FloatArray) -> FloatArray:
    """Every pair is counted at both of its rows: to first order its deviation is twice that of the ratio."""
    ratio: FloatArray = sums[0] / sums[1]
    value: FloatArray = 2 * ratio - ratio[0]
    return value


def _rank(values: FloatArray) -> IntArray:
    """The place of each value among the distinct ones."""
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _sum_below(first: IntArray, second: IntArray, weight: FloatArray) -> FloatArray:
    """For each row the weight of the rows that have both a lower first and a lower second number.

    In the order of the first number a merge sort by the second one, from blocks of 1 row up: a row of a right block
    gets what lies below it in the left one. O(n log^2 n).
    """
    # Of rows with equal first numbers the lower second ones come last, and so are below none of the others.
    order = np.lexsort((-second, first))
    ordered_second, ordered_weight = second[order], weight[order]
    num_rows = len(order)
    position = np.arange(num_rows)
    # Of equal second numbers those of the right block come first: what is before a row is strictly below it.
    by_second = np.lexsort((-position, ordered_second))
    below = np.zeros(num_rows)
    for level in range(max(num_rows - 1, 0).bit_length()):
        pair = by_second >> (level + 1)
        merged = by_second[np.argsort(pair.astype(np.min_scalar_type(num_rows >> 1)), kind="stable")]
        is_right = (merged >> level) & 1 == 1
        left_weight = np.where(is_right, 0.0, ordered_weight[merged])
        before = np.concatenate([[0.0], np.cumsum(left_weight)])
        starts = (merged >> (level + 1)) << (level + 1)  # a pair's rows stand where they stood before the merge
        right = np.flatnonzero(is_right)
        below[merged[right]] += before[right] - before[starts[right]]
    result = np.empty(num_rows)
    result[order] = below
    return result
