"""A feature that nothing reads has no importance, one that decides the label has all of it; rows move as a whole."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import mean_absolute_error, roc_auc_score
from torchrec import KeyedJaggedTensor

from models.batch import Batch
from pipeline.config import build
from pipeline.evaluate.diagnostics.importance import permutation_importance, permute
from pipeline.evaluate.diagnostics.quality import HAS_LOG_LOSS, MAIN_METRICS, auc, log_loss, mae, mean_auc
from pipeline.evaluate.metrics.catalogue import MAIN_METRIC, METRICS
from pipeline.schema import Schema

NAN = float("nan")
SCHEMA = build(
    Schema,
    {
        "features": [
            {"name": "size", "kind": "numeric", "null_indicator": True},
            {"name": "item", "kind": "categorical"},
            {"name": "tags", "kind": "weighted_multi_valued"},
            {"name": "price", "kind": "numeric"},
        ],
        "tasks": [
            {"name": "click", "kind": "binary", "label": "click"},
            {"name": "like", "kind": "binary", "label": "like", "space": "click"},
            {"name": "watch", "kind": "regression", "label": "watch"},
            {"name": "mood", "kind": "multiclass", "label": "mood", "classes": {"bad": 0, "fair": 1, "good": 2}},
        ],
    },
    "the tests",
)
FEATURES = {feature.name: feature for feature in SCHEMA.features}


def make_part(num_rows: int, seed: int) -> Batch:
    """`item` decides whether a row is clicked and `price` how long it is watched; the rest is chance."""
    rng = np.random.default_rng(seed)
    item = rng.integers(2, 12, num_rows)
    lengths = rng.integers(0, 4, num_rows)
    dense = rng.normal(size=(num_rows, 3)).astype(np.float32)
    like = rng.integers(0, 2, num_rows)
    labels = np.stack([item % 2, like, 10 * dense[:, 2], rng.integers(0, 3, num_rows)], axis=1)
    labels[rng.random(num_rows) < 0.1, 0] = NAN
    tags = rng.integers(0, 50, lengths.sum())
    return Batch(
        torch.from_numpy(dense),
        KeyedJaggedTensor(
            keys=["item", "tags"],
            values=torch.from_numpy(np.concatenate([item, tags])),
            weights=torch.from_numpy(np.concatenate([np.ones(num_rows), tags / 100]).astype(np.float32)),
            lengths=torch.from_numpy(np.concatenate([np.ones(num_rows), lengths]).astype(np.int32)),
        ),
        torch.from_numpy(labels.astype(np.float32)),
        torch.from_numpy(rng.choice([0.5, 1.0, 3.0], num_rows).astype(np.float32)),
    )


def predict(part: Batch) -> dict[str, NDArray[np.float64]]:
    """As a model that has understood what decides."""
    item = part.sparse["item"].values().numpy()
    click = np.where(item % 2 == 1, 0.9, 0.1)
    half = np.full(len(item), 0.5)
    third = np.full(len(item), 1 / 3)
    watch = 10.0 * part.dense[:, 2].double().numpy() + 1
    return {
        "click": click,
        "like": half,
        "joint_like": click / 2,
        "watch": watch,
        **{f"mood_{name}": third for name in ("bad", "fair", "good")},
    }


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return permutation_importance(predict, [make_part(400, seed) for seed in range(5)], SCHEMA, seed=1)


def losses_of(found: Mapping[str, Any], feature: str, task: str) -> Any:
    (entry,) = (entry for entry in found["features"] if entry["name"] == feature)
    return entry["tasks"][task]


def test_a_feature_that_the_model_does_not_read_has_importance_zero(found: dict[str, Any]) -> None:
    for feature in ("size", "tags"):
        for task in ("click", "like", "watch", "mood"):
            for loss in losses_of(found, feature, task).values():
                assert loss is None or (loss["worsening"], loss["standard_error"]) == (0.0, 0.0)
                assert loss is None or str(loss["worsening"]) == "0.0"
    assert losses_of(found, "price", "click")["metric"]["worsening"] == 0


def test_a_feature_that_alone_decides_the_label_costs_all_that_can_be_lost(found: dict[str, Any]) -> None:
    loss = losses_of(found, "item", "click")
    assert found["tasks"]["click"]["value"] == 1.0
    # Half of the rows get the item of another click, and the AUC is that of chance.
    assert loss["metric"]["worsening"] == pytest.approx(0.5, abs=0.03)
    assert loss["metric"]["relative"] == loss["metric"]["worsening"]
    assert abs(loss["metric"]["worsening"] - 0.5) < 4 * loss["metric"]["standard_error"] < 0.1
    assert loss["log_loss"]["worsening"] == pytest.approx(0.5 * np.log(9), abs=0.1)


def test_features_come_in_the_order_of_what_all_tasks_lose_without_them(found: dict[str, Any]) -> None:
    totals = [feature["total"] for feature in found["features"]]
    # A mean error of 1 grows elevenfold without the price; nothing else is lost but the item's half.
    assert [feature["name"] for feature in found["features"]] == ["price", "item", "size", "tags"]
    assert totals == sorted(totals, reverse=True)
    assert totals[1] == pytest.approx(
        sum(losses_of(found, "item", task)["metric"]["relative"] for task in ("click", "like", "watch", "mood"))
    )


def test_values_are_those_of_the_rows_of_each_task_by_weight(found: dict[str, Any]) -> None:
    parts = [make_part(400, seed) for seed in range(5)]
    label = torch.cat([part.labels for part in parts]).numpy()
    weight = torch.cat([part.weights for part in parts]).numpy()
    watch = np.concatenate([predict(part)["watch"] for part in parts])
    assert found["tasks"]["watch"]["rows"] == 2_000
    assert found["tasks"]["watch"]["log_loss"] is None
    assert found["tasks"]["watch"]["value"] == pytest.approx(
        mean_absolute_error(label[:, 2], watch, sample_weight=weight)
    )
    assert found["tasks"]["like"]["rows"] == np.count_nonzero(label[:, 0] == 1)
    assert found["tasks"]["like"]["log_loss"] == pytest.approx(np.log(2))
    assert found["tasks"]["mood"]["value"] == pytest.approx(0.5)


def test_what_is_undefined_is_none_and_counts_nothing() -> None:
    parts = [make_part(50, seed) for seed in range(3)]
    for part in parts:
        part.labels[:, 0] = 1.0
        part.labels[:, 3] = NAN
    found = permutation_importance(predict, parts, SCHEMA, seed=1)
    assert found["tasks"]["click"]["value"] is None
    assert found["tasks"]["mood"] == {"rows": 0, "metric": "auc", "value": None, "log_loss": None}
    undefined = {"worsening": None, "standard_error": None, "relative": None}
    assert losses_of(found, "item", "click")["metric"] == undefined
    assert losses_of(found, "item", "click")["log_loss"]["worsening"] == pytest.approx(0.0, abs=0.3)
    assert losses_of(found, "item", "mood") == {"metric": undefined, "log_loss": undefined}


def test_predictions_that_are_no_numbers_leave_their_task_without_importance() -> None:
    def broken(part: Batch) -> dict[str, NDArray[np.float64]]:
        outputs = predict(part)
        outputs["watch"][0] = NAN
        return outputs

    found = permutation_importance(broken, [make_part(50, seed) for seed in range(3)], SCHEMA, seed=1)
    assert found["tasks"]["watch"]["value"] is None
    assert found["tasks"]["click"]["value"] == 1.0


def test_the_same_seed_gives_the_same_importance_and_another_one_another() -> None:
    parts = [make_part(100, seed) for seed in range(3)]
    first, again, other = (permutation_importance(predict, parts, SCHEMA, seed) for seed in (1, 1, 2))
    assert first == again
    assert losses_of(first, "item", "click") != losses_of(other, "item", "click")


def test_progress_counts_features_and_rows() -> None:
    told: list[Any] = []
    permutation_importance(predict, [make_part(50, 0)], SCHEMA, 1, lambda *event: told.append(event))
    assert told == [("features permuted", done, 4, 50 * done, "rows") for done in range(5)]


def rows_of(part: Batch, feature: str) -> list[tuple[list[int], list[float]]]:
    bags = part.sparse[feature]
    ends = bags.offsets().tolist()
    return [(bags.values()[first:end].tolist(), bags.weights()[first:end].tolist()) for first, end in pairwise(ends)]


@pytest.mark.parametrize("feature", ["item", "tags"])
def test_a_row_gets_the_whole_list_of_another_row_with_its_weights(feature: str) -> None:
    part = make_part(60, 3)
    order = torch.from_numpy(np.random.default_rng(0).permutation(60))
    changed = permute(part, FEATURES[feature], SCHEMA, order)
    before = rows_of(part, feature)
    assert rows_of(changed, feature) == [before[row] for row in order.tolist()]
    (other,) = {"item", "tags"} - {feature}
    assert rows_of(changed, other) == rows_of(part, other)
    assert torch.equal(changed.dense, part.dense)
    assert torch.equal(changed.labels.nan_to_num(), part.labels.nan_to_num())
    assert rows_of(part, feature) == before != rows_of(changed, feature)


@pytest.mark.parametrize(("feature", "columns"), [("size", [0, 1]), ("price", [2])])
def test_a_number_moves_with_its_null_indicator_and_without_other_numbers(feature: str, columns: list[int]) -> None:
    part = make_part(60, 3)
    order = torch.from_numpy(np.random.default_rng(0).permutation(60))
    changed = permute(part, FEATURES[feature], SCHEMA, order)
    others = [column for column in range(3) if column not in columns]
    assert torch.equal(changed.dense[:, columns], part.dense[order][:, columns])
    assert torch.equal(changed.dense[:, others], part.dense[:, others])
    assert rows_of(changed, "tags") == rows_of(part, "tags")


@pytest.mark.parametrize("seed", range(5))
def test_quality_is_that_of_scikit_learn_with_ties_and_weights(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label, weight = rng.integers(0, 2, 300).astype(float), rng.choice([0.0, 0.5, 2.0], 300)
    prediction = rng.choice(np.linspace(0.01, 0.99, 7), 300)
    assert auc(prediction, label, weight) == pytest.approx(roc_auc_score(label, prediction, sample_weight=weight))
    assert log_loss(prediction, label, weight) == pytest.approx(
        sklearn_log_loss(label, prediction, sample_weight=weight)
    )
    assert mae(prediction, label, weight) == pytest.approx(mean_absolute_error(label, prediction, sample_weight=weight))
    classes = rng.dirichlet(np.ones(3), 300)
    place = rng.integers(0, 3, 300).astype(float)
    assert log_loss(classes, place, weight) == pytest.approx(sklearn_log_loss(place, classes, sample_weight=weight))
    assert mean_auc(classes, place, np.ones(300)) == pytest.approx(roc_auc_score(place, classes, multi_class="ovr"))


def test_a_task_is_judged_by_the_metric_that_the_report_puts_first() -> None:
    assert {kind: main.name for kind, main in MAIN_METRICS.items()} == MAIN_METRIC
    assert {kind for kind, metrics in METRICS.items() if "log_loss" in metrics} == set(HAS_LOG_LOSS)
    for kind, main in MAIN_METRICS.items():
        assert METRICS[kind][main.name].better == ("higher" if main.sign < 0 else "lower")


@pytest.mark.parametrize("quality", [auc, mae, log_loss])
def test_without_a_row_that_counts_there_is_no_quality(quality: Callable[..., float]) -> None:
    assert np.isnan(quality(np.zeros(0), np.zeros(0), np.zeros(0)))
    assert np.isnan(quality(np.array([0.2, 0.7]), np.array([0.0, 1.0]), np.zeros(2)))
