"""Each metric by hand, against scikit-learn, and against a naive second implementation."""

import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
from fabricated_parts import measure_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as reference

from pipeline.evaluate.metrics.catalogue import (
    MAIN_METRIC,
    METRICS,
    SLICE_METRICS,
    definition_of,
    explain,
    name_in_report,
)
from pipeline.evaluate.metrics.rows import MIN_PROBABILITY

Array = NDArray[Any]
# A few shared values beside random ones, so that ties are common.
probabilities = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))
# Multiples of 1/16: sums are exact, so that the two implementations compared round alike.
values = st.integers(-16_000, 16_000).map(lambda n: n / 16)
weights = st.sampled_from([0.0, 0.25, 1.0, 1.0, 3.0])
binary_rows = st.lists(st.tuples(probabilities, st.integers(0, 1), weights), min_size=1, max_size=60)
keys = st.one_of(st.none(), st.integers(0, 4))
grouped_rows = st.lists(st.tuples(probabilities, st.integers(0, 1), weights, keys), min_size=1, max_size=60)
value_rows = st.lists(st.tuples(values, values, weights), min_size=1, max_size=60)
odds = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))
class_rows = st.lists(st.tuples(odds, st.integers(0, 2), weights), min_size=1, max_size=60)


def values_of(*given: Any, kind: str = "binary", **options: Any) -> dict[str, float | None]:
    return {name: cell["value"] for name, cell in measure_rows(kind, *given, **options).items()}


def close(expected: Any, rel: float = 1e-9, abs: float = 1e-9) -> Any:
    """Equal to nine digits; None equals None only."""
    return None if expected is None else pytest.approx(expected, rel=rel, abs=abs)


def count_wins(prediction: Array, label: Array, weight: Array) -> float | None:
    """AUC as its definition says: over all pairs of a positive and a negative row."""
    positives, negatives = (list(zip(prediction[label == y], weight[label == y], strict=True)) for y in (1, 0))
    pairs = [(p > n, p == n, v * w) for (p, v), (n, w) in itertools.product(positives, negatives)]
    total = math.fsum(w for *_, w in pairs)
    return math.fsum(w * (wins + ties / 2) for wins, ties, w in pairs) / total if total else None


def mean(pairs: list[tuple[float, float]]) -> float | None:
    """Of values with weights."""
    total = math.fsum(weight for _, weight in pairs)
    return math.fsum(value * weight for value, weight in pairs) / total if total else None


def test_binary_metrics_of_four_rows_by_hand() -> None:
    user, request = ["u", "u", "u", "v"], ["r", "r", "s", "t"]
    measured = values_of([0.8, 0.4, 0.4, 0.2], [1, 1, 0, 0], user=user, request=request, k=1)
    assert measured.pop("request_gauc") is None
    loss = -(math.log(0.8) + math.log(0.4) + math.log(0.6) + math.log(0.8)) / 4
    assert measured == close(
        {
            "auc": 3.5 / 4,
            "average_precision": (1 + 2 / 3) / 2,
            "log_loss": loss,
            "normalised_entropy": loss / math.log(2),
            "calibration": 1.8 / 2,
            "calibration_error": (0.2 + 0.2 + abs(0.8 - 1)) / 4,
            "gauc": 1.5 / 2,
            "gauc_unweighted": 1.5 / 2,
            "ndcg@1": 1.0,
            "recall@1": 0.5,
            "mrr": 1.0,
        }
    )


def test_regression_metrics_of_three_rows_by_hand() -> None:
    measured = values_of([1.0, 3.0, 5.0], [1.0, 2.0, 6.0], kind="regression")
    expected = {"mae": 2 / 3, "rmse": math.sqrt(2 / 3), "r2": 1 - 2 / 14, "calibration": 1.0, "xauc": 1.0}
    assert measured == close(expected)


def test_multiclass_metrics_of_four_rows_by_hand() -> None:
    prediction = [[0.5, 0.3, 0.2], [0.2, 0.6, 0.2], [0.4, 0.4, 0.2], [0.1, 0.2, 0.7]]
    measured = values_of(prediction, [0, 1, 1, 2], kind="multiclass")
    loss = -(math.log(0.5) + math.log(0.6) + math.log(0.4) + math.log(0.7)) / 4
    entropy = -(0.5 * math.log(0.25) + 0.5 * math.log(0.5))
    assert measured == close({"auc": 1.0, "log_loss": loss, "normalised_entropy": loss / entropy, "accuracy": 0.75})


@settings(max_examples=50, deadline=None)
@given(binary_rows)
def test_binary_metrics_equal_scikit_learn(rows: list[tuple[float, int, float]]) -> None:
    prediction, label, weight = (np.array(column) for column in zip(*rows, strict=True))
    measured = values_of(prediction, label, weight=weight)
    if not weight.sum():
        assert set(measured.values()) == {None}
        return
    kept = weight > 0  # scikit-learn looks for classes among rows without weight too
    prediction, label, weight = prediction[kept], label[kept], weight[kept]
    clipped = np.clip(prediction, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    loss = reference.log_loss(label, clipped, labels=[0, 1], sample_weight=weight)
    assert measured["log_loss"] == close(loss)
    assert measured["average_precision"] == (
        close(reference.average_precision_score(label, prediction, sample_weight=weight)) if label.any() else None
    )
    if 0 < label.sum() < len(label):
        assert measured["auc"] == close(reference.roc_auc_score(label, prediction, sample_weight=weight))
        rate = np.full(len(label), np.average(label, weights=weight))
        entropy = reference.log_loss(label, rate, labels=[0, 1], sample_weight=weight)
        assert measured["normalised_entropy"] == close(loss / entropy)
        assert measured["calibration"] == close(prediction @ weight / (label @ weight))
    else:
        assert measured["auc"] is None
        assert measured["normalised_entropy"] is None


@settings(max_examples=30, deadline=None)
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


@settings(max_examples=30, deadline=None)
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


@settings(max_examples=30, deadline=None)
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


@settings(max_examples=50, deadline=None)
@given(value_rows)
def test_regression_metrics_equal_scikit_learn(rows: list[tuple[float, float, float]]) -> None:
    prediction, label, weight = (np.array(column) for column in zip(*rows, strict=True))
    measured = values_of(prediction, label, weight=weight, kind="regression")
    if not weight.any():
        assert set(measured.values()) == {None}
        return
    assert measured["mae"] == close(reference.mean_absolute_error(label, prediction, sample_weight=weight))
    squared = reference.mean_squared_error(label, prediction, sample_weight=weight)
    assert measured["rmse"] == close(math.sqrt(squared))
    has_spread = len(set(label[weight > 0])) > 1
    assert measured["r2"] == (
        close(reference.r2_score(label, prediction, sample_weight=weight)) if has_spread else None
    )
    total = label @ weight
    assert measured["calibration"] == (close(prediction @ weight / total) if total else None)
    assert values_of(prediction, label, weight=weight, kind="watch_time") == measured


@settings(max_examples=50, deadline=None)
@given(value_rows)
def test_xauc_equals_a_loop_over_pairs(rows: list[tuple[float, float, float]]) -> None:
    pairs = []
    for (p, y, v), (q, z, w) in itertools.combinations(rows, 2):
        if y != z:
            pairs.append((0.5 if p == q else float((p > q) == (y > z)), v * w))
    prediction, label, weight = zip(*rows, strict=True)
    expected = mean(pairs) if any(weight) else None
    assert values_of(prediction, label, weight=weight, kind="regression")["xauc"] == close(expected)


@settings(max_examples=50, deadline=None)
@given(class_rows)
def test_multiclass_metrics_equal_scikit_learn(rows: list[tuple[tuple[int, int, int], int, float]]) -> None:
    odds, label, weight = (np.array(column) for column in zip(*rows, strict=True))
    prediction = odds / odds.sum(axis=1, keepdims=True)
    measured = values_of(prediction, label, weight=weight, kind="multiclass")
    kept = weight > 0
    prediction, label, weight = prediction[kept], label[kept], weight[kept]
    if not len(label):
        assert set(measured.values()) == {None}
        return
    loss = reference.log_loss(label, prediction, labels=[0, 1, 2], sample_weight=weight)
    assert measured["log_loss"] == close(loss)
    hits = reference.accuracy_score(label, prediction.argmax(axis=1), sample_weight=weight)
    assert measured["accuracy"] == close(hits)
    occurring = np.unique(label)
    if len(occurring) == 1:
        assert measured["auc"] is None
        assert measured["normalised_entropy"] is None
        return
    areas = [reference.roc_auc_score(label == c, prediction[:, c], sample_weight=weight) for c in occurring]
    assert measured["auc"] == close(np.mean(areas))
    frequencies = np.tile(np.bincount(label, weight, minlength=3) / weight.sum(), (len(label), 1))
    with warnings.catch_warnings(action="ignore"):  # scikit-learn on rounding
        entropy = reference.log_loss(label, frequencies, labels=[0, 1, 2], sample_weight=weight)
    assert measured["normalised_entropy"] == close(loss / entropy)


@settings(max_examples=30, deadline=None)
@given(binary_rows)
def test_two_classes_measure_as_a_binary_task_does(rows: list[tuple[float, int, float]]) -> None:
    prediction, label, weight = (np.array(column) for column in zip(*rows, strict=True))
    binary = values_of(prediction, label, weight=weight)
    no_third = np.stack([1 - prediction, prediction, np.zeros(len(rows))], axis=1)
    classes = values_of(no_third, label, kind="multiclass", weight=weight)
    for name in ("log_loss", "normalised_entropy"):
        assert classes[name] == close(binary[name])
    # 1 - q rounds, which can make a tie of two tiny predictions.
    if np.unique(1 - prediction).size == np.unique(prediction).size:
        assert classes["auc"] == close(binary["auc"])


@settings(max_examples=20, deadline=None)
@given(binary_rows, value_rows)
def test_a_row_of_weight_two_counts_as_two_rows(binary: list[Any], continuous: list[Any]) -> None:
    for kind, rows in (("binary", binary), ("regression", continuous)):
        once = [(p, y, 2.0 if w == 3 else 1.0) for p, y, w in rows]
        twice = [(p, y) for p, y, w in once for _ in range(int(w))]
        prediction, label, weight = zip(*once, strict=True)
        weighted = values_of(prediction, label, weight=weight, user=[0] * len(once), kind=kind)
        repeated = values_of(*zip(*twice, strict=True), user=[0] * len(twice), kind=kind)
        for name in weighted.keys() - {"calibration_error"}:  # its buckets have equal numbers of rows, not weights
            assert weighted[name] == close(repeated[name])


@pytest.mark.parametrize("constant", [0.0, 0.1, 1.0])
def test_the_auc_of_a_constant_predictor_is_one_half(constant: float) -> None:
    rng = np.random.default_rng(0)
    label, users = rng.random(10_007) < 0.01, rng.integers(0, 50, 10_007).tolist()
    measured = values_of(np.full(10_007, constant), label, user=users, request=users, max_rows=1_000)
    assert measured["auc"] == 0.5
    assert measured["average_precision"] == close(label.mean())
    for name in ("gauc", "gauc_unweighted", "request_gauc"):
        assert measured[name] == close(0.5, abs=1e-15)


def test_log_loss_of_a_saturated_wrong_prediction_is_finite() -> None:
    assert values_of([1.0], [0])["log_loss"] == close(-math.log(MIN_PROBABILITY), rel=1e-8)
    impossible = values_of([[1.0, 0.0, 0.0]], [1], kind="multiclass")
    assert impossible["log_loss"] == close(-math.log(MIN_PROBABILITY), rel=1e-8)


def test_of_equally_probable_classes_the_first_counts() -> None:
    assert values_of([[0.4, 0.4, 0.2]] * 2, [0, 1], kind="multiclass")["accuracy"] == 0.5


def test_r2_keeps_its_digits_far_from_zero() -> None:
    rng = np.random.default_rng(0)
    label = 1e9 + rng.random(1_000)
    prediction = label + rng.normal(0, 0.1, 1_000)
    expected = reference.r2_score(label - 1e9, prediction - 1e9)
    assert values_of(prediction, label, kind="regression")["r2"] == close(expected, rel=1e-7)


NO_USER, NO_REQUEST = "the rows have no user key", "the rows have no request key"
NO_KEYS = dict.fromkeys(("gauc", "gauc_unweighted"), NO_USER) | dict.fromkeys(
    ("request_gauc", "ndcg@10", "recall@10", "mrr"), NO_REQUEST
)


@pytest.mark.parametrize(
    ("prediction", "label", "options", "reasons"),
    [
        ([], [], {}, dict.fromkeys((name_in_report(name, 10) for name in METRICS["binary"]), "there are no rows")),
        (
            [0.5, 0.1],
            [0, 0],
            {"user": ["u", "v"], "request": ["r", "s"]},
            dict.fromkeys(("auc", "average_precision", "normalised_entropy"), "all labels are 0")
            | {"calibration": "the labels sum to 0"}
            | dict.fromkeys(("gauc", "gauc_unweighted"), "no user has both classes")
            | {"request_gauc": "no request has both classes"}
            | dict.fromkeys(("ndcg@10", "recall@10", "mrr"), "no request has a positive row"),
        ),
        ([0.5], [1], {}, {"auc": "all labels are 1", "normalised_entropy": "all labels are 1", **NO_KEYS}),
        (
            [0.5, 0.1],
            [1, 0],
            {"user": [None, None], "request": ["r", None]},
            dict.fromkeys(("gauc", "gauc_unweighted"), "no user has both classes")
            | {"request_gauc": "no request has both classes"},
        ),
        (
            [0.5, 0.1],
            [1, 0],
            {"weight": [0, 0], "user": [0, 0], "request": [0, 0]},
            dict.fromkeys((name_in_report(name, 10) for name in METRICS["binary"]), "the weights of the rows sum to 0"),
        ),
        (
            [0.5, math.nan, math.inf],
            [0, 1, 1],
            {},
            dict.fromkeys(
                (name_in_report(name, 10) for name in METRICS["binary"]), "2 of 3 predictions are not finite"
            ),
        ),
    ],
)
def test_an_undefined_binary_metric_is_none_with_a_reason(
    prediction: list[float], label: list[int], options: dict[str, Any], reasons: dict[str, str]
) -> None:
    measured = measure_rows("binary", prediction, label, **options)
    assert {name: cell["reason"] for name, cell in measured.items() if cell["value"] is None} == reasons
    assert all(cell["reason"] is None for cell in measured.values() if cell["value"] is not None)


def test_an_undefined_regression_metric_is_none_with_a_reason() -> None:
    measured = measure_rows("regression", [0.0, 0.0, 0.0], [0.1, 0.1, 0.1], weight=[0.1, 0.2, 0.7])
    reasons = {name: cell["reason"] for name, cell in measured.items() if cell["value"] is None}
    assert reasons == {"r2": "all labels are equal", "xauc": "all labels are equal"}
    assert all(cell["reason"] == "there are no rows" for cell in measure_rows("regression", [], []).values())
    overflowing = measure_rows("regression", [1e300, -1e300], [0.0, 1.0])
    assert overflowing["rmse"]["value"] is None
    assert overflowing["rmse"]["reason"] == "the values are too large or too small to compute it"
    assert overflowing["r2"]["reason"] == "the values are too large or too small to compute it"


def test_labels_of_rows_without_weight_make_no_spread() -> None:
    label, weight = np.array([0.1, 0.1, 0.7]), np.array([0.3, 0.1, 0.0])
    cell = measure_rows("regression", [0.3, 0.2, 0.9], label, weight=weight)["r2"]
    assert (cell["value"], cell["reason"]) == (None, "all labels are equal")
    cell = measure_rows("regression", [0.3, 0.2, 0.9], label[::-1], weight=weight[::-1])["r2"]
    assert (cell["value"], cell["reason"]) == (None, "all labels are equal")


def test_an_undefined_multiclass_metric_is_none_with_a_reason() -> None:
    measured = measure_rows("multiclass", [[0.2, 0.3, 0.5]] * 2, [2, 2])
    reasons = {name: cell["reason"] for name, cell in measured.items() if cell["value"] is None}
    assert reasons == {"auc": "all labels are 2", "normalised_entropy": "all labels are 2"}
    empty = measure_rows("multiclass", np.empty((0, 3)), [])
    assert {cell["reason"] for cell in empty.values()} == {"there are no rows"}
    broken = measure_rows("multiclass", [[math.nan, math.nan, 0.1], [0.5, 0.5, 0]], [0, 1])
    assert {cell["reason"] for cell in broken.values()} == {"1 of 2 predictions are not finite"}


def test_best_is_the_metric_of_the_truth_and_the_fraction_counts_from_chance() -> None:
    label, truth = [1, 0, 1, 0], [0.9, 0.2, 0.8, 0.1]
    measured = measure_rows("binary", [0.9, 0.8, 0.7, 0.1], label, truth=truth)
    auc, loss = measured["auc"], measured["log_loss"]
    assert (auc["value"], auc["best"], auc["fraction_of_best"]) == (0.75, 1.0, 0.5)
    assert (loss["best"], loss["fraction_of_best"]) == (close(values_of(truth, label)["log_loss"]), None)
    without = measure_rows("binary", truth, label)
    assert all(cell["best"] is None for cell in without.values())
    worst = measure_rows("binary", [0.9, 0.1], [1, 0], truth=[0.5, 0.5])["auc"]
    assert (worst["value"], worst["best"], worst["fraction_of_best"]) == (1.0, 0.5, None)
    broken = measure_rows("binary", [math.nan, 0.1], [1, 0], truth=[0.7, 0.2])["auc"]
    assert (broken["value"], broken["best"]) == (None, 1.0)


def test_the_truth_of_each_class_gives_the_best_values() -> None:
    truth = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]
    prediction = [[0.4, 0.3, 0.3], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]]
    measured = measure_rows("multiclass", prediction, [0, 1, 2], truth=truth)
    # The row of class 0 lies between the two others, that of class 1 ties with both, and that of class 2 is above both.
    assert measured["auc"]["value"] == close((0.5 + 0.5 + 1) / 3)
    assert measured["auc"]["best"] == 1.0
    assert measured["auc"]["fraction_of_best"] == close(1 / 3)
    assert measured["log_loss"]["best"] == close(-math.log(0.8))


def test_every_metric_explains_itself_in_one_sentence() -> None:
    for kind, metrics in METRICS.items():
        for name in metrics:
            sentence = explain(kind, name_in_report(name, 7))
            assert sentence[0].isupper() or sentence.startswith("-")
            assert sentence.endswith(".")
    assert explain("binary", "lift") == explain("ranking", "auc") == ""
    assert definition_of("binary", "ndcg@50") is METRICS["binary"]["ndcg@k"]


def test_the_metrics_of_slices_are_metrics_and_the_main_one_has_a_direction() -> None:
    assert SLICE_METRICS.keys() == MAIN_METRIC.keys() == METRICS.keys()
    for kind, names in SLICE_METRICS.items():
        assert set(names) <= set(METRICS[kind])
        assert METRICS[kind][MAIN_METRIC[kind]].better in ("higher", "lower")
        assert all(METRICS[kind][name].key is None and not METRICS[kind][name].of_sample for name in names)
