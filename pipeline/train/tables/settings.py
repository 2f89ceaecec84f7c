"""Which optimizer and which placement each embedding table has, and whether they go together on a device."""

import fnmatch
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pipeline.errors import ConfigError
from pipeline.train.config import ShardingConfig, SparseOptimizerConfig, TableShardingConfig, TrainConfig

CPU_OPTIMIZERS = ("sgd", "adagrad", "rowwise_adagrad")
# One step size for a whole row: a part of the row's columns would have another one.
ROWWISE_OPTIMIZERS = ("rowwise_adagrad", "partial_rowwise_adam")
COLUMN_TYPES = ("column_wise", "grid")
SEQUENCE_TYPES = ("auto", "table_wise", "row_wise", "column_wise")

Choice = TypeVar("Choice")


@dataclass(frozen=True)
class TableSettings:
    """The configuration of one table, and where each part of it stands."""

    optimizer: SparseOptimizerConfig
    sharding: TableShardingConfig
    optimizer_key: str
    sharding_key: str


def table_settings(tables: Iterable[str], config: TrainConfig) -> dict[str, TableSettings]:
    """The settings of each table: those of its own name, else of the first pattern that fits, else the common ones."""
    settings = {}
    for table in tables:
        optimizer, optimizer_key = config.sparse_optimizer, "train.sparse_optimizer"
        if (found := _key_of(config.sparse_optimizers, table)) is not None:
            optimizer, optimizer_key = config.sparse_optimizers[found], f"train.sparse_optimizers.{found}"
        sharding, sharding_key = _sharding(config.sharding, table)
        settings[table] = TableSettings(optimizer, sharding, optimizer_key, sharding_key)
    return settings


def check_table_settings(settings: Mapping[str, TableSettings], device: str, attended: Collection[str]) -> None:
    """Checks every table's settings for a device, "cpu" or "cuda"; `attended` tables are read row by row.

    Raises:
        ConfigError: a setting that the device would ignore, or two that do not go together.
    """
    for table, chosen in settings.items():
        _check_device(chosen, device)
        kind, type_ = chosen.optimizer.kind, chosen.sharding.type
        if kind in ROWWISE_OPTIMIZERS and type_ in COLUMN_TYPES:
            raise ConfigError(
                f"table {table!r} has {chosen.sharding_key} {type_} and {chosen.optimizer_key}.kind {kind}, which has "
                "one step size per row: split by columns, every part of a row would have its own",
                "choose row_wise or table_wise sharding, or the optimizer adagrad",
            )
        if type_ == "data_parallel":
            _check_data_parallel(table, chosen)
        if table in attended and type_ not in SEQUENCE_TYPES:
            raise ConfigError(
                f"table {table!r} is read by attention and has {chosen.sharding_key} {type_}",
                f"choose one of {', '.join(SEQUENCE_TYPES)} for it",
            )
        if chosen.sharding.min_columns is not None and type_ not in ("auto", *COLUMN_TYPES):
            raise ConfigError(
                f"{chosen.sharding_key}.min_columns has no effect on type {type_}", "remove it, or choose column_wise"
            )


def _check_device(chosen: TableSettings, device: str) -> None:
    if device != "cpu":
        return
    if chosen.optimizer.kind not in CPU_OPTIMIZERS:
        raise ConfigError(
            f"{chosen.optimizer_key}.kind is {chosen.optimizer.kind}, which runs on GPUs only",
            f"on the CPU choose one of {', '.join(CPU_OPTIMIZERS)}",
        )
    for value, default, key in (
        (chosen.optimizer.weight_decay, 0.0, f"{chosen.optimizer_key}.weight_decay"),
        (chosen.sharding.kernel, "fused", f"{chosen.sharding_key}.kernel"),
    ):
        if value != default:
            raise ConfigError(f"{key} is {value}, which the CPU would ignore", f"remove {key}, or train on GPUs")


def _check_data_parallel(table: str, chosen: TableSettings) -> None:
    for value, choices, key in (
        (chosen.optimizer.kind, CPU_OPTIMIZERS, f"{chosen.optimizer_key}.kind"),
        (chosen.optimizer.max_gradient, (None,), f"{chosen.optimizer_key}.max_gradient"),
        (chosen.sharding.kernel, ("fused",), f"{chosen.sharding_key}.kernel"),
    ):
        if value not in choices:
            raise ConfigError(
                f"table {table!r} is data_parallel, which does not go with {key} {value}",
                f"shard it in another way, or change {key}",
            )


def _sharding(config: ShardingConfig, table: str) -> tuple[TableShardingConfig, str]:
    found = _key_of(config.tables, table)
    if found is None:
        return TableShardingConfig(type=config.default), "train.sharding.default"
    chosen = config.tables[found]
    if not isinstance(chosen, TableShardingConfig):
        chosen = TableShardingConfig(type=chosen)
    return chosen, f"train.sharding.tables.{found}"


def _key_of(choices: Mapping[str, Choice], table: str) -> str | None:
    if table in choices:
        return table
    return next((pattern for pattern in choices if fnmatch.fnmatchcase(table, pattern)), None)
