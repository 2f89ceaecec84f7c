"""(schema, dataset, model configuration) -> MultiTaskModel: the only seam between the columns and the networks."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from pydantic import create_model
from torch import nn
from torchrec import EmbeddingBagConfig, PoolingType

from models.catalogue import BODIES, HEADS
from models.front_end import FrontEnd
from models.multitask import MultiTaskModel
from models.tasks import Task
from pipeline.config import Section, build, nearest, or_else
from pipeline.errors import ConfigError
from pipeline.schema import Schema
from pipeline.shards.manifest import DatasetIndex
from pipeline.train.config import ChoiceConfig, ModelConfig


def check_model(schema: Schema, config: ModelConfig) -> None:
    """Checks everything about the model that does not need a dataset, before any work is done.

    Raises:
        ConfigError: an unknown body or head, an unknown or wrong option of it, a head that does not fit the tasks.
    """
    _options("model.body", BODIES, config.body)
    _make_head(config, tasks_of(schema, config, None))


def tasks_of(schema: Schema, config: ModelConfig, index: DatasetIndex | None) -> list[Task]:
    """The schema's tasks with their loss weights; regressions are centred and scaled by the training rows' labels."""
    tasks = []
    for task in schema.tasks:
        center, scale = 0.0, 1.0
        if index is not None and task.kind == "regression":
            statistics = index.label_statistics[task.name]
            center, scale = statistics.mean, statistics.deviation or 1.0
        weight = config.task_weights.get(task.name, 1.0)
        tasks.append(Task(task.name, task.kind, task.space, center, scale, weight))
    return tasks


def build_model(
    index: DatasetIndex, config: ModelConfig, seed: int, table_device: torch.device
) -> tuple[MultiTaskModel, nn.Module]:
    """The model and its head for a dataset.

    Dense layers are drawn from `seed`; tables are made on `table_device` (meta for sharding) and are left to be filled
    by `initial_weights` or from a checkpoint.

    Raises:
        ConfigError: a table with fewer rows than the dataset's ids need.
    """
    schema = index.data_schema
    tasks = tasks_of(schema, config, index)
    rows = table_rows(index, config)
    features_of_table: dict[str, list[str]] = {name: [] for name in schema.table_owners()}
    for feature in schema.sparse_features:
        features_of_table[feature.table_name].append(feature.name)
    tables = [
        EmbeddingBagConfig(
            name=name,
            num_embeddings=rows[name],
            embedding_dim=config.front_end.embedding_dims.get(name, config.front_end.embedding_dim),
            feature_names=features,
            # The mean of one id is its own row, so single-valued features and bags can share a table.
            pooling=PoolingType.MEAN,
        )
        for name, features in features_of_table.items()
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        front_end = FrontEnd(
            tables,
            [feature.name for feature in schema.sparse_features],
            len(schema.dense_names),
            config.front_end.dense_width,
            table_device,
        )
        body_class = BODIES[config.body.kind]
        options = _options("model.body", BODIES, config.body)
        body = body_class(front_end.output_width, len(tasks), **options)
        model = MultiTaskModel(front_end, body, tasks, config.tower_widths)
    return model, _make_head(config, tasks)


def table_rows(index: DatasetIndex, config: ModelConfig) -> dict[str, int]:
    """Rows of each embedding table: what the dataset needs, or more where the configuration says so."""
    rows = dict(index.table_rows)
    for name, configured in config.front_end.num_embeddings.items():
        if configured < rows[name]:
            raise ConfigError(
                f"model.front_end.num_embeddings.{name} is {configured:,}, and the dataset has ids for "
                f"{rows[name]:,} rows",
                f"set it to at least {rows[name]}, remove it, or give feature {name!r} a max_size and preprocess again",
            )
        rows[name] = configured
    return rows


def _make_head(config: ModelConfig, tasks: list[Task]) -> nn.Module:
    options = _options("model.head", HEADS, config.head)
    try:
        return HEADS[config.head.kind](tasks, **options)
    except ValueError as error:
        raise ConfigError(f"model.head: {error}", "change model.head or the tasks of the schema") from error


def _options(where: str, catalogue: dict[str, type[nn.Module]], choice: ChoiceConfig) -> dict[str, Any]:
    """The checked keyword options of a catalogue entry, read from its own signature."""
    if choice.kind not in catalogue:
        hint = nearest(choice.kind, catalogue)
        raise ConfigError(
            f"{where}.kind is {choice.kind!r}, which is not in the catalogue ({', '.join(sorted(catalogue))})",
            or_else(hint, "choose another of these") if hint.endswith("?") else "choose one of these",
        )
    checked = build(_options_section(catalogue[choice.kind]), choice.options, where)
    return checked.model_dump()


def _options_section(entry: Callable[..., Any]) -> type[Section]:
    fields: dict[str, Any] = {
        name: (parameter.annotation, parameter.default)
        for name, parameter in inspect.signature(entry).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    return create_model(entry.__name__ + "Options", __base__=Section, **fields)
