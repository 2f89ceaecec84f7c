"""Which rank gets which part of which table: torchrec's planner under Gatehouse's constraints and memory budgets."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingCollection
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.proposers import GreedyProposer, GridSearchProposer, Proposer, UniformProposer
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import (
    HardwareConfig,
    KernelConfig,
    PlannerError,
    ShardingOption,
    Stats,
    TopologyFactory,
    TrainerConfig,
)
from torchrec.distributed.types import ModuleSharder, ShardingPlan

from pipeline.train.optimizers import fuse_sparse_optimizers
from pipeline.train.tables.settings import ROWWISE_OPTIMIZERS, TableSettings

GIB = 2**30
TORCHREC_TYPES = {"grid": "grid_shard"}
PREFERENCE = ("table_wise", "row_wise", "table_row_wise", "column_wise", "grid_shard", "data_parallel")
MIN_COLUMNS = 32
# All combinations are tried where there are no more than so many; beyond that the search takes tens of seconds.
MAX_COMBINATIONS = 500


@dataclass(frozen=True)
class Hardware:
    """The ranks of a run and their memory; host memory is a rank's share of its node."""

    num_ranks: int
    ranks_per_node: int
    device: str
    device_memory_gib: float
    host_memory_gib: float
    reserved_fraction: float

    @property
    def is_cuda(self) -> bool:
        return self.device == "cuda"

    @property
    def device_budget_gib(self) -> float:
        """What the tables of a rank may take of its GPU."""
        return self.device_memory_gib * (1 - self.reserved_fraction) if self.is_cuda else 0.0

    @property
    def host_budget_gib(self) -> float:
        """What they may take of its host memory."""
        return self.host_memory_gib * (1 - self.reserved_fraction)

    @cached_property
    def topology(self) -> Topology:
        """The same for torchrec, with its default bandwidths."""
        return TopologyFactory.create_topology(
            TrainerConfig(world_size=self.num_ranks, local_world_size=self.ranks_per_node),
            # torchrec's own reservations leave the host's memory out, so the budgets are what it gets to see.
            HardwareConfig(
                hbm_cap_bytes=int(self.device_budget_gib * GIB) if self.is_cuda else None,
                ddr_cap_bytes=int(self.host_budget_gib * GIB),
            ),
            KernelConfig(compute_device=self.device),
        )


@dataclass(frozen=True)
class TableSet:
    """The tables of a model with their fused optimizers, and how they are used.

    `table_of` gives the configured table of each table of the model, `settings` that table's settings, and
    `ids_per_row` how many ids a row has of a feature, if not one.
    """

    model: nn.Module
    table_of: Mapping[str, str]
    settings: Mapping[str, TableSettings]
    sharders: list[ModuleSharder[nn.Module]]
    rows_per_rank: int
    ids_per_row: Mapping[str, int]

    def collections(self) -> Iterator[tuple[nn.Module, list[Any]]]:
        """Each collection of tables with their torchrec configurations."""
        for module in self.model.modules():
            if isinstance(module, EmbeddingBagCollection):
                yield module, module.embedding_bag_configs()
            elif isinstance(module, EmbeddingCollection):
                yield module, module.embedding_configs()

    def attended(self) -> set[str]:
        """The configured tables that are read row by row."""
        found = (configs for module, configs in self.collections() if isinstance(module, EmbeddingCollection))
        return {self.table_of[config.name] for configs in found for config in configs}

    def with_width(self, table: str, width: int) -> "TableSet":
        """The tables alone, without the rest of the model, with another width of one configured table."""
        collections = nn.ModuleList()
        for module, configs in self.collections():
            changed = [replace(c, embedding_dim=width) if self.table_of[c.name] == table else c for c in configs]
            collections.append(type(module)(tables=changed, device=torch.device("meta")))
        fuse_sparse_optimizers(collections, self.table_of, self.settings)
        return replace(self, model=collections)


@dataclass(frozen=True)
class Placement:
    """A plan that fits, with the planner's estimates of memory and time for every part of a table."""

    sharding: ShardingPlan
    options: list[ShardingOption]

    def usage(self, num_ranks: int) -> list[tuple[float, float, float]]:
        """Of each rank: GiB of its GPU, GiB of the host, milliseconds per step."""
        device, host, milliseconds = [0] * num_ranks, [0] * num_ranks, [0.0] * num_ranks
        for option in self.options:
            for shard in option.shards:
                device[shard.rank] += shard.storage.hbm
                host[shard.rank] += shard.storage.ddr
                milliseconds[shard.rank] += shard.perf.total
        return [(d / GIB, h / GIB, m) for d, h, m in zip(device, host, milliseconds, strict=True)]


def place(tables: TableSet, hardware: Hardware) -> Placement | None:
    """The fastest placement found, or None where the tables do not fit."""
    found = _Found()
    proposers: list[Proposer] = [
        GridSearchProposer(MAX_COMBINATIONS), GreedyProposer(), GreedyProposer(use_depth=False), UniformProposer()
    ]  # fmt: skip
    constraints = _constraints(tables, hardware)
    planner = EmbeddingShardingPlanner(
        topology=hardware.topology,
        batch_size=tables.rows_per_rank,
        constraints=constraints,
        enumerator=_Enumerator(hardware.topology, tables.rows_per_rank, constraints),
        storage_reservation=FixedPercentageStorageReservation(0.0),
        proposer=proposers,
        stats=[found],
    )
    try:
        sharding = planner.plan(tables.model, tables.sharders)
    except PlannerError:
        return None
    return Placement(sharding, found.options)


class _Enumerator(EmbeddingEnumerator):  # type: ignore[misc]
    """torchrec's, in an order that does not change from process to process: of equal options the first one is taken."""

    def enumerate(self, module: nn.Module, sharders: list[ModuleSharder[nn.Module]]) -> list[ShardingOption]:
        found = super().enumerate(module, sharders)
        return sorted(found, key=lambda option: (option.fqn, PREFERENCE.index(option.sharding_type)))


class _Found(Stats):  # type: ignore[misc]
    """Receives the best plan with its estimates; there is none without tables."""

    def __init__(self) -> None:
        self.options: list[ShardingOption] = []

    def log(self, *, best_plan: list[ShardingOption], **_: Any) -> None:
        self.options = best_plan


def _constraints(tables: TableSet, hardware: Hardware) -> dict[str, ParameterConstraints]:
    return {
        config.name: _constraints_of(
            tables.settings[tables.table_of[config.name]],
            hardware,
            [float(tables.ids_per_row.get(feature, 1)) for feature in config.feature_names],
        )
        for _, configs in tables.collections()
        for config in configs
    }


def _constraints_of(settings: TableSettings, hardware: Hardware, ids_per_row: list[float]) -> ParameterConstraints:
    chosen = settings.sharding
    types = _auto_types(settings, hardware) if chosen.type == "auto" else [chosen.type]
    return ParameterConstraints(
        sharding_types=[TORCHREC_TYPES.get(name, name) for name in types],
        compute_kernels=["dense" if chosen.type == "data_parallel" else chosen.kernel],
        min_partition=chosen.min_columns or MIN_COLUMNS,
        pooling_factors=ids_per_row,
    )


def _auto_types(settings: TableSettings, hardware: Hardware) -> list[str]:
    # Never data_parallel, which the planner would choose for small tables: every rank would hold a replica and exchange
    # the gradient of the whole table in every step, and the table would leave the fused optimizer.
    types = ["table_wise", "row_wise"]
    if hardware.is_cuda:
        types.append("table_row_wise")
        if settings.optimizer.kind not in ROWWISE_OPTIMIZERS:
            types += ["column_wise", "grid"]
    return types
