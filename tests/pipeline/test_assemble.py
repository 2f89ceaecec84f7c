"""Schema, dataset and configuration to a model: what is refused before any work, and what the seed decides."""

from typing import Any

import pyarrow as pa
import pytest
import torch

from models.catalogue import BALANCERS, BODIES, HEADS, INTERACTIONS
from models.heads.esmm import ESMMHead
from models.heads.independent import IndependentHead
from models.multitask import MultiTaskModel
from pipeline.assemble import build_model, check_model, make_balancer, make_head, table_rows, tasks_of
from pipeline.config import build
from pipeline.errors import ConfigError
from pipeline.schema import Schema
from pipeline.shards.collate import Layout, collate
from pipeline.shards.manifest import DatasetIndex, LabelStatistics
from pipeline.train.config import ModelConfig

CPU = torch.device("cpu")
FEATURES: list[dict[str, Any]] = [
    {"name": "user", "kind": "categorical"},
    {"name": "item", "kind": "categorical"},
    {"name": "history", "kind": "history", "table": "item"},
    {"name": "age", "kind": "numeric", "null_indicator": True},
]
# Options without which a body cannot be made.
NEEDED: dict[str, dict[str, Any]] = {"pepnet": {"person_features": ["user"]}}
CLICK = {"name": "click", "kind": "binary", "label": "clicked"}
LIKE = {"name": "like", "kind": "binary", "label": "liked", "space": "click"}
WATCH = {"name": "watch", "kind": "regression", "label": "seconds", "space": "click"}


def make_schema(
    features: list[dict[str, Any]] = FEATURES, tasks: tuple[dict[str, Any], ...] = (CLICK, LIKE, WATCH)
) -> Schema:
    return build(Schema, {"features": features, "tasks": list(tasks)}, "the schema")


def make_index(schema: Schema, deviation: float = 30.0) -> DatasetIndex:
    return DatasetIndex(
        schema_fingerprint=schema.fingerprint(),
        data_schema=schema,
        vocabulary_version="v",
        table_rows={table: 10 + 5 * place for place, table in enumerate(schema.table_owners())},
        label_statistics={task.name: LabelStatistics(rows=9, mean=12.0, deviation=deviation) for task in schema.tasks},
        time_range=None,
        shards=(),
    )


def make_config(**changes: Any) -> ModelConfig:
    body = {"kind": "mmoe", "num_experts": 2, "widths": [8, 4]}
    return build(ModelConfig, {"body": body, "tower_widths": [4], **changes}, "run.yaml")


def make_model(config: ModelConfig, seed: int = 0, schema: Schema | None = None) -> MultiTaskModel:
    return build_model(make_index(schema or make_schema()), config, seed, CPU)


def refusal(schema: Schema, **changes: Any) -> str:
    """The message with which a configuration is refused before there is a dataset."""
    with pytest.raises(ConfigError) as caught:
        check_model(schema, make_config(**changes))
    return str(caught.value)


def dense_state(model: MultiTaskModel) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if "embedding_bags" not in name}


# --- the catalogue


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("head", HEADS)
def test_every_body_and_head_works_with_its_defaults(body: str, head: str) -> None:
    config = make_config(body={"kind": body, **NEEDED.get(body, {})}, head={"kind": head})
    check_model(make_schema(), config)
    model = make_model(config)
    assert type(model.body) is BODIES[body]
    assert type(make_head(config, list(model.tasks))) is HEADS[head]


@pytest.mark.parametrize("balancer", BALANCERS)
def test_every_balancer_works_with_its_defaults(balancer: str) -> None:
    config = make_config(balancer={"kind": balancer})
    check_model(make_schema(), config)
    assert type(make_balancer(config, tasks_of(make_schema(), config, None))) is BALANCERS[balancer]


@pytest.mark.parametrize("interaction", INTERACTIONS)
def test_every_interaction_works_with_its_defaults(interaction: str) -> None:
    config = make_config(interaction={"kind": interaction})
    check_model(make_schema(), config)
    assert type(make_model(config).front_end.interaction) is INTERACTIONS[interaction]


def test_a_history_is_read_by_attention_where_the_configuration_says_so() -> None:
    attention = {"history": {"target": "item", "widths": [6, 4]}}
    config = make_config(front_end={"attention": attention})
    check_model(make_schema(), config)
    assert [*make_model(config).front_end.activation_units] == ["history_0"]
    assert refusal(make_schema(), front_end={"attention": {"histroy": {"target": "item"}}}).startswith(
        "model.front_end: attention names 'histroy', which is not a sparse feature."
    )
    assert refusal(make_schema(), front_end={"attention": {"history": {"target": "user"}}}).startswith(
        "model.front_end: attention: 'history' and its target 'user' do not share a table."
    )


@pytest.mark.parametrize(
    ("where", "catalogue"),
    [("body", BODIES), ("head", HEADS), ("balancer", BALANCERS), ("interaction", INTERACTIONS)],
)
def test_an_unknown_entry_comes_with_the_list_of_choices(where: str, catalogue: dict[str, Any]) -> None:
    choices = ", ".join(sorted(catalogue))
    name = min(catalogue)
    assert refusal(make_schema(), **{where: {"kind": name + "x"}}) == (
        f"model.{where}.kind is '{name}x', which is not in the catalogue ({choices}). "
        f"Did you mean {name!r}? If not, choose another of these."
    )
    assert refusal(make_schema(), **{where: {"kind": "zzz"}}) == (
        f"model.{where}.kind is 'zzz', which is not in the catalogue ({choices}). Choose one of these."
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"kind": "mmoe", "num_exprts": 3}, "unknown key num_exprts. Did you mean 'num_experts'? If not, remove it."),
        ({"kind": "shared_bottom", "num_experts": 3}, "unknown key num_experts. Choose from widths, or remove it."),
        ({"kind": "mmoe", "input_width": 3}, "unknown key input_width."),
        ({"kind": "mmoe", "num_experts": "many"}, "num_experts is 'many': should be a valid integer"),
        ({"kind": "mmoe", "num_experts": 2.5}, "num_experts is 2.5: should be a valid integer"),
        ({"kind": "mmoe", "num_experts": None}, "num_experts is None: should be a valid integer"),
        ({"kind": "mmoe", "widths": 8}, "widths is 8: should be a valid tuple"),
        ({"kind": "mmoe", "widths": [8, "wide"]}, "widths.1 is 'wide': should be a valid integer"),
    ],
)
def test_a_wrong_option_of_a_body_is_named(body: dict[str, Any], message: str) -> None:
    assert refusal(make_schema(), body=body).startswith(f"model.body: {message}")


@pytest.mark.parametrize("head", HEADS)
def test_an_unknown_option_of_a_head_is_named(head: str) -> None:
    message = refusal(make_schema(), head={"kind": head, "chain_of_tasks": [1]})
    assert message.startswith("model.head: unknown key chain_of_tasks. ")


@pytest.mark.parametrize(
    "changes",
    [
        {"body": {"kind": "mmoe", "num_experts": 0}},
        {"body": {"kind": "mmoe", "num_experts": -1}},
        {"body": {"kind": "mmoe", "widths": []}},
        {"body": {"kind": "mmoe", "widths": [8, 0]}},
        {"body": {"kind": "mmoe", "widths": [-8]}},
        {"body": {"kind": "shared_bottom", "widths": []}},
        {"body": {"kind": "shared_bottom", "widths": [0, 8]}},
        {"tower_widths": [0]},
        {"tower_widths": [8, -1]},
    ],
    ids=str,
)
def test_sizes_that_make_no_network_are_refused_before_there_is_a_dataset(changes: dict[str, Any]) -> None:
    assert "widths" in refusal(make_schema(), **changes) or "body" in refusal(make_schema(), **changes)


def test_a_head_that_does_not_fit_the_tasks_is_refused() -> None:
    for tasks in ((CLICK,), (CLICK, WATCH)):
        assert refusal(make_schema(tasks=tasks), head={"kind": "esmm"}) == (
            "model.head: head esmm needs a binary task with a space, such as purchase with space: click. "
            "Change model.head or the tasks and features of the schema."
        )


# --- tables


def test_a_table_smaller_than_the_ids_of_the_dataset_is_refused() -> None:
    config = make_config(front_end={"num_embeddings": {"item": 14}})
    with pytest.raises(ConfigError) as caught:
        make_model(config)
    assert str(caught.value) == (
        "model.front_end.num_embeddings.item is 14, and the dataset has ids for 15 rows. "
        "Set it to at least 15, remove it, or give feature 'item' a max_size and preprocess again."
    )


@pytest.mark.parametrize(("configured", "expected"), [({}, 15), ({"item": 15}, 15), ({"item": 1000}, 1000)])
def test_a_table_has_the_rows_of_the_dataset_or_more(configured: dict[str, int], expected: int) -> None:
    index, config = make_index(make_schema()), make_config(front_end={"num_embeddings": configured})
    assert table_rows(index, config) == {"user": 10, "item": expected}
    assert index.table_rows == {"user": 10, "item": 15}
    state = make_model(config).state_dict()
    assert state["front_end.embeddings.embedding_bags.item.weight"].shape == (expected, 16)


def test_widths_of_tables_and_of_the_front_end() -> None:
    config = make_config(front_end={"embedding_dim": 8, "embedding_dims": {"item": 12}, "dense_width": 5})
    model = make_model(config)
    tables = {name: value.shape for name, value in model.state_dict().items() if "embedding_bags" in name}
    assert tables == {
        "front_end.embeddings.embedding_bags.user.weight": (10, 8),
        "front_end.embeddings.embedding_bags.item.weight": (15, 12),
    }
    assert model.front_end.inputs.width == 8 + 12 + 12 + 5


def test_tables_are_made_on_their_own_device_and_dense_layers_are_not() -> None:
    """So that a table larger than one machine can be sharded before it exists."""
    model = build_model(make_index(make_schema()), make_config(), 0, torch.device("meta"))
    assert {name: value.is_meta for name, value in model.named_parameters()} == {
        name: "embedding_bags" in name for name, _ in model.named_parameters()
    }


# --- tasks


def test_tasks_carry_their_weights_and_regressions_the_scale_of_their_labels() -> None:
    schema = make_schema()
    config = make_config(task_weights={"like": 2.5})
    click, like, watch = tasks_of(schema, config, make_index(schema))
    assert (click.weight, like.weight, watch.weight) == (1.0, 2.5, 1.0)
    assert (click.center, click.scale) == (0.0, 1.0)
    assert (watch.center, watch.scale) == (12.0, 30.0)
    assert (click.space, like.space, watch.space) == (None, "click", "click")
    # Before there is a dataset, and where all labels are equal.
    assert tasks_of(schema, config, None)[2].scale == 1.0
    assert tasks_of(schema, config, make_index(schema, deviation=0.0))[2].scale == 1.0


def test_model_and_head_share_the_tasks() -> None:
    config = make_config(head={"kind": "esmm"})
    model = make_model(config)
    head = make_head(config, list(model.tasks))
    assert isinstance(head, ESMMHead)
    assert head.tasks == model.tasks
    assert [task.name for task in model.tasks] == ["click", "like", "watch"]
    assert isinstance(make_head(make_config(), list(model.tasks)), IndependentHead)


# --- the seed


@pytest.mark.parametrize("body", BODIES)
def test_dense_layers_follow_from_the_seed_alone(body: str) -> None:
    config = make_config(body={"kind": body, **NEEDED.get(body, {})})
    torch.manual_seed(1)
    first = dense_state(make_model(config, seed=7))
    torch.manual_seed(2)
    second, other = dense_state(make_model(config, seed=7)), dense_state(make_model(config, seed=8))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    # Biases start at zero, and the shares of a stitch where its paper says.
    weights = [name for name, value in first.items() if value.count_nonzero() and "stitch" not in name]
    assert len(weights) >= 3
    assert not any(torch.equal(first[name], other[name]) for name in weights)


def test_building_a_model_leaves_the_random_numbers_of_others_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    make_model(make_config(), seed=9)
    assert torch.equal(torch.rand(4), expected)


# --- the seam


@pytest.mark.parametrize(
    "features", [FEATURES, FEATURES[:3], FEATURES[3:]], ids=["all features", "no numeric", "numeric only"]
)
def test_a_model_takes_the_batches_that_its_schema_lays_out(features: list[dict[str, Any]]) -> None:
    schema = make_schema(features)
    index = make_index(schema)
    columns = {
        "sparse_user": pa.array([3, 4, 9], pa.int32()),
        "sparse_item": pa.array([1, 2, 14], pa.int32()),
        "sparse_history": pa.array([[14, 2], [], [1]], pa.list_(pa.int32())),
        "dense": pa.array([[0.5, 0.0], [0.0, 1.0], [-1.0, 0.0]], pa.list_(pa.float32(), 2)),
    }
    layout = Layout.of(schema, index.table_rows)
    table = pa.table(columns).select([c for c in columns if c.removeprefix("sparse_") in (*layout.features, "dense")])
    batch = collate(table, layout, 4)
    output_BT = make_model(make_config(), schema=schema)(batch.dense, batch.sparse)
    assert output_BT.shape == (4, 3)
    assert output_BT.isfinite().all()


def test_the_inputs_of_the_body_are_the_bags_in_the_order_of_the_features_then_the_numbers() -> None:
    model = make_model(make_config(front_end={"embedding_dim": 4, "dense_width": 3}))
    tables = {name.split(".")[-2]: value for name, value in model.state_dict().items() if "embedding_bags" in name}
    columns = {
        "sparse_user": pa.array([3], pa.int32()),
        "sparse_item": pa.array([1], pa.int32()),
        "sparse_history": pa.array([[14, 2, 2]], pa.list_(pa.int32())),
        "dense": pa.array([[0.5, 1.0]], pa.list_(pa.float32(), 2)),
    }
    batch = collate(pa.table(columns), Layout.of(make_schema(), {"user": 10, "item": 15}), 1)
    mean = (tables["item"][14] + 2 * tables["item"][2]) / 3
    assert model.front_end.projection is not None
    expected = torch.cat([tables["user"][3], tables["item"][1], mean, model.front_end.projection(batch.dense)[0]])
    torch.testing.assert_close(model.front_end(batch.dense, batch.sparse)[0], expected)
