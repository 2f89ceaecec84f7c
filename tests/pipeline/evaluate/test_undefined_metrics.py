"""A metric that the rows do not define is None, with the reason."""

import math
from typing import Any

import numpy as np
import pytest
from fabricated_parts import measure_rows

from pipeline.evaluate.metrics.catalogue import METRICS, name_in_report

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
