"""The metrics that scikit-learn lacks against a naive second implementation."""

import itertools
import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from measured_values import Array, binary_rows, close, grouped_rows, mean, value_rows, values_of, weights


def count_wins(prediction: Array, label: Array, weight: Array) -> float | None:
    """AUC as its definition says: over all pairs of a positive and a negative row."""
    positives, negatives = (list(zip(prediction[label == y], weight[label == y], strict=True)) for y in (1, 0))
    pairs = [(p > n, p == n, v * w) for (p, v), (n, w) in itertools.product(positives, negatives)]
    total = math.fsum(w for *_, w in pairs)
    return math.fsum(w * (wins + ties / 2) for wins, ties, w in pairs) / total if total else None


@settings(max_examples=30)
@given(binary_rows)
def test_the_calibration_error_is_the_sum_over_buckets_of_equal_size(rows: list[tuple[float, int, float]]) -> None:
    prediction, label, weight = (np.array(column) for column in zip(*rows, strict=True))
    order = np.argsort(prediction, kind="stable")
    buckets: dict[float, list[int]] = {}
    ends = [len(rows) * number // 20 for number in range(1, 21)]
    lasts = sorted({float(prediction[order[end - 1]]) for end in ends if end})
    for row in order.tolist():
        buckets.setdefault(next(last for last in lasts if prediction[row] <= last), []).append(row)
    gaps = [abs(math.fsum(weight[row] * (prediction[row] - label[row]) for row in own)) for own in buckets.values()]
    expected = math.fsum(gaps) / weight.sum() if weight.any() else None
    assert values_of(prediction, label, weight=weight)["calibration_error"] == close(expected)


@settings(max_examples=30)
@given(grouped_rows)
def test_grouped_auc_equals_a_loop_over_groups(rows: list[tuple[float, int, float, int | None]]) -> None:
    prediction, label, weight = (np.array(column) for column in list(zip(*rows, strict=True))[:3])
    group = [key for *_, key in rows]
    in_groups = [np.array([key == one for key in group]) for one in {*group} - {None}]
    found = [(count_wins(prediction[own], label[own], weight[own]), weight[own].sum()) for own in in_groups]
    defined = [(value, size) for value, size in found if value is not None]
    of_users = values_of(prediction, label, weight=weight, user=group)
    of_requests = values_of(prediction, label, weight=weight, request=group)
    if weight.any():
        assert of_users["gauc"] == of_requests["request_gauc"] == close(mean(defined))
        assert of_users["gauc_unweighted"] == close(mean([(value, 1) for value, _ in defined]))
    assert of_requests["gauc"] is None


@settings(max_examples=50)
@given(value_rows)
def test_xauc_equals_a_loop_over_pairs(rows: list[tuple[float, float, float]]) -> None:
    pairs = []
    for (p, y, v), (q, z, w) in itertools.combinations(rows, 2):
        if y != z:
            pairs.append((0.5 if p == q else float((p > q) == (y > z)), v * w))
    prediction, label, weight = zip(*rows, strict=True)
    expected = mean(pairs) if any(weight) else None
    assert values_of(prediction, label, weight=weight, kind="regression")["xauc"] == close(expected)


def rank_by_orders(prediction: Array, label: Array, k: int) -> dict[str, float]:
    """The metrics of one list, averaged over all orders that its predictions allow."""
    orders = [
        order
        for order in itertools.permutations(range(len(label)))
        if all(prediction[a] >= prediction[b] for a, b in itertools.pairwise(order))
    ]
    best = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, int(label.sum())) + 1))
    found = {f"ndcg@{k}": 0.0, f"recall@{k}": 0.0, "mrr": 0.0}
    for order in orders:
        ranks = [rank for rank, row in enumerate(order, start=1) if label[row]]
        found[f"ndcg@{k}"] += sum(1 / math.log2(rank + 1) for rank in ranks if rank <= k) / best
        found[f"recall@{k}"] += sum(rank <= k for rank in ranks) / len(ranks)
        found["mrr"] += 1 / ranks[0]
    return {name: value / len(orders) for name, value in found.items()}


lists = st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.integers(0, 1), weights), min_size=1, max_size=5)


@settings(max_examples=30)
@given(st.lists(lists, min_size=1, max_size=6), st.integers(1, 4))
def test_ranked_lists_are_averaged_over_the_orders_of_ties(requests: list[Any], k: int) -> None:
    rows = [(*row, number) for number, one in enumerate(requests) for row in one]
    prediction, label, weight, request = (np.array(column) for column in zip(*rows, strict=True))
    measured = values_of(prediction, label, weight=weight, request=request.tolist(), k=k)
    kept = [request == number for number in range(len(requests)) if label[request == number].any()]
    found = [(rank_by_orders(prediction[own], label[own], k), weight[own].mean()) for own in kept]
    for name in (f"ndcg@{k}", f"recall@{k}", "mrr"):
        expected = mean([(of_list[name], size) for of_list, size in found]) if weight.any() else None
        assert measured[name] == close(expected)


def test_the_reciprocal_rank_of_a_long_tie_is_that_of_a_random_order() -> None:
    label = np.zeros(5_000)
    label[:2] = 1
    rank = np.arange(1, 5_000)
    expected = ((5_000 - rank) / math.comb(5_000, 2) / rank).sum()
    assert values_of(np.full(5_000, 0.5), label, request=["r"] * 5_000)["mrr"] == close(expected, abs=0)
