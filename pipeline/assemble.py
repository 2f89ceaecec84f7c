"""(schema, dataset, model configuration) -> a model to train or to serve: the only seam between columns and networks.

torchrec is loaded by what makes a model to train: a machine that serves does not have it.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from pydantic import create_model
from torch import nn

from models.balancers.balancer import Balancer
from models.catalogue import BALANCERS, BODIES, HEADS, INTERACTIONS
from models.combination import Attended
from models.inputs import Inputs
from models.multitask import MultiTaskModel, table_groups
from models.serving import ServingFrontEnd, ServingModel, TableConfig
from models.tables import TableType
from models.tasks import Task
from pipeline.config import Section, build, nearest, or_else
from pipeline.errors import ConfigError
from pipeline.feature_kinds import WeightedMultiValuedFeature
from pipeline.schema import Schema
from pipeline.shards.manifest import DatasetIndex
from pipeline.train.config import ChoiceConfig, ModelConfig

EntryT = TypeVar("EntryT", bound=nn.Module)


def check_model(schema: Schema, config: ModelConfig) -> None:
    """Checks everything about the model that does not need a dataset, before any work is done.

    Raises:
        ConfigError: an unknown part of the model, an unknown or wrong option of it, parts that do not fit the tasks or
            each other.
    """
    tasks = tasks_of(schema, config, None)
    make_head(config, tasks)
    make_balancer(config, tasks)
    # Without memory: only the number of rows is unknown, and no shape of a layer depends on it.
    with torch.device("meta"):
        _make_model(schema, config, tasks, dict.fromkeys(schema.table_owners(), 1), torch.device("meta"))


def tasks_of(schema: Schema, config: ModelConfig, index: DatasetIndex | None) -> list[Task]:
    """The schema's tasks with what the model section says of their losses.

    Regressions are centred and scaled by the labels of the training rows, and watch times are scaled by their mean.
    """
    _check_kinds(schema, config)
    tasks = []
    for task in schema.tasks:
        center, scale = 0.0, 1.0
        if index is not None and task.kind == "regression":
            statistics = index.label_statistics[task.name]
            center, scale = statistics.mean, statistics.deviation or 1.0
        if index is not None and task.kind == "watch_time":
            scale = index.label_statistics[task.name].mean or 1.0
        tasks.append(
            Task(
                task.name,
                task.kind,
                task.space,
                classes=tuple(task.classes or ()),
                center=center,
                scale=scale,
                weight=config.task_weights.get(task.name, 1.0),
                positive_weight=config.positive_weights.get(task.name, 1.0),
                huber_delta=config.huber_deltas.get(task.name),
            )
        )
    return tasks


def build_model(index: DatasetIndex, config: ModelConfig, seed: int, table_device: torch.device) -> MultiTaskModel:
    """The model for a dataset.

    Dense layers are drawn from `seed`; tables are made on `table_device` (meta for sharding) and are left to be filled
    by `initial_weights` or from a checkpoint.

    Raises:
        ConfigError: a table with fewer rows than the dataset's ids need.
    """
    schema = index.data_schema
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _make_model(schema, config, tasks_of(schema, config, index), table_rows(index, config), table_device)


def build_serving_model(
    schema: Schema, config: ModelConfig, tasks: Sequence[Task], rows: Mapping[str, int], table_type: TableType
) -> ServingModel:
    """The model to serve, its tables with so many rows and left to be filled, like everything else of it."""
    tables = [
        TableConfig(name, rows[name], _width(config, name), features)
        for name, features in _features_of_tables(schema).items()
    ]
    front_end = ServingFrontEnd(
        tables,
        [feature.name for feature in schema.sparse_features],
        len(schema.dense_names),
        config.front_end.dense_width,
        table_type=table_type,
        groups=table_groups(_entry("model.body", BODIES, config.body), tasks),
        attention=_attention(config),
        interaction=_interaction(config),
    )
    body = _make("model.body", BODIES, config.body, front_end.inputs, tasks)
    return ServingModel(front_end, body, tasks, config.tower_widths)


def make_head(config: ModelConfig, tasks: list[Task]) -> nn.Module:
    """The head that says how the outputs are trained."""
    return _make("model.head", HEADS, config.head, tasks)


def make_balancer(config: ModelConfig, tasks: list[Task]) -> Balancer:
    """The balancer that weighs the tasks' losses and gradients.

    Raises:
        ConfigError: it would ignore the configured task weights.
    """
    balancer = _make("model.balancer", BALANCERS, config.balancer, tasks)
    if balancer.cancels_task_weights and config.task_weights:
        raise ConfigError(
            f"model.task_weights have no effect with balancer {config.balancer.kind!r}, which finds its own",
            "remove model.task_weights, or choose another balancer",
        )
    return balancer


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


def _make_model(
    schema: Schema, config: ModelConfig, tasks: list[Task], rows: Mapping[str, int], table_device: torch.device
) -> MultiTaskModel:
    from torchrec import EmbeddingBagConfig, PoolingType

    from models.front_end import FrontEnd

    tables = [
        EmbeddingBagConfig(
            name=name,
            num_embeddings=rows[name],
            embedding_dim=_width(config, name),
            feature_names=features,
            # The front end makes means of these sums.
            pooling=PoolingType.SUM,
        )
        for name, features in _features_of_tables(schema).items()
    ]
    with _explaining("model.front_end"):
        front_end = FrontEnd(
            tables,
            [feature.name for feature in schema.sparse_features],
            len(schema.dense_names),
            config.front_end.dense_width,
            table_device,
            groups=table_groups(_entry("model.body", BODIES, config.body), tasks),
            attention=_attention(config),
            weighted=[f.name for f in schema.sparse_features if isinstance(f, WeightedMultiValuedFeature)],
            interaction=_interaction(config),
        )
    body = _make("model.body", BODIES, config.body, front_end.inputs, tasks)
    return MultiTaskModel(front_end, body, tasks, config.tower_widths)


def _features_of_tables(schema: Schema) -> dict[str, list[str]]:
    features: dict[str, list[str]] = {name: [] for name in schema.table_owners()}
    for feature in schema.sparse_features:
        features[feature.table_name].append(feature.name)
    return features


def _width(config: ModelConfig, table: str) -> int:
    return config.front_end.embedding_dims.get(table, config.front_end.embedding_dim)


def _attention(config: ModelConfig) -> dict[str, Attended]:
    return {name: Attended(read.target, read.widths) for name, read in config.front_end.attention.items()}


def _interaction(config: ModelConfig) -> Callable[[Inputs], nn.Module] | None:
    if config.interaction is None:
        return None
    return partial(_make, "model.interaction", INTERACTIONS, config.interaction)


def _check_kinds(schema: Schema, config: ModelConfig) -> None:
    kinds = {task.name: task.kind for task in schema.tasks}
    for where, names, kind in (
        ("positive_weights", config.positive_weights, "binary"),
        ("huber_deltas", config.huber_deltas, "regression"),
    ):
        for name in names:
            if kinds[name] != kind:
                raise ConfigError(
                    f"model.{where} names {name!r}, which is a {kinds[name]} task and not a {kind} one",
                    f"remove {name!r} from model.{where}",
                )


def _make(where: str, catalogue: Mapping[str, type[EntryT]], choice: ChoiceConfig, *given: Any) -> EntryT:
    entry = _entry(where, catalogue, choice)
    options = build(_options_section(entry), choice.options, where).model_dump()
    with _explaining(where):
        return entry(*given, **options)


def _entry(where: str, catalogue: Mapping[str, type[EntryT]], choice: ChoiceConfig) -> type[EntryT]:
    if choice.kind not in catalogue:
        hint = nearest(choice.kind, catalogue)
        raise ConfigError(
            f"{where}.kind is {choice.kind!r}, which is not in the catalogue ({', '.join(sorted(catalogue))})",
            or_else(hint, "choose another of these") if hint.endswith("?") else "choose one of these",
        )
    return catalogue[choice.kind]


@contextmanager
def _explaining(where: str) -> Iterator[None]:
    """Turns a ValueError of a part of the model into a ConfigError that says where its options stand."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{where}: {error}", f"change {where} or the tasks and features of the schema") from error


def _options_section(entry: Callable[..., Any]) -> type[Section]:
    """The keyword options of a catalogue entry, read from its own signature."""
    fields: dict[str, Any] = {
        name: (parameter.annotation, parameter.default)
        for name, parameter in inspect.signature(entry).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    return create_model(entry.__name__ + "Options", __base__=Section, **fields)
