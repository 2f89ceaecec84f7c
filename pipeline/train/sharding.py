"""Places the embedding tables on ranks: constraints, the planner, and the plan as text."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import PlannerError
from torchrec.distributed.types import BoundsCheckMode, ModuleSharder, ShardingPlan

from pipeline.errors import ConfigError
from pipeline.train.config import ShardingConfig

AUTO_TYPES = ["table_wise", "row_wise"]
RESERVED_FRACTION = 0.15


class _BagSharder(EmbeddingBagCollectionSharder):  # type: ignore[misc]
    """torchrec hides row_wise on CPU, where it works; this lists it."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        return sorted({*super().sharding_types(compute_device_type), "row_wise"})


class _SequenceSharder(EmbeddingCollectionSharder):  # type: ignore[misc]
    """The same for the tables whose rows are not pooled."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        return sorted({*super().sharding_types(compute_device_type), "row_wise"})


def make_sharders() -> list[ModuleSharder[nn.Module]]:
    """The sharders of a run. Ids are checked on the host before; FATAL is the net below that."""
    fused_params = {"bounds_check_mode": BoundsCheckMode.FATAL}
    return [_BagSharder(fused_params=dict(fused_params)), _SequenceSharder(fused_params=dict(fused_params))]


def plan_tables(
    model: nn.Module,
    table_of: Mapping[str, str],
    config: ShardingConfig,
    sharders: list[ModuleSharder[nn.Module]],
    device: torch.device,
    rows_per_rank: int,
) -> ShardingPlan:
    """The placement of every table, made on rank 0 and sent to all. Needs a process group.

    `table_of` gives the configured table of each table of the model.

    Raises:
        ConfigError: the tables do not fit the ranks.
    """
    constraints = {
        name: ParameterConstraints(
            sharding_types=_sharding_types(config, table),
            # Data-parallel tables would leave the fused optimizer.
            compute_kernels=["fused"],
        )
        for name, table in table_of.items()
    }
    planner = EmbeddingShardingPlanner(
        topology=_topology(device),
        batch_size=rows_per_rank,
        constraints=constraints,
        storage_reservation=FixedPercentageStorageReservation(RESERVED_FRACTION),
    )
    try:
        return planner.collective_plan(model, sharders, dist.GroupMember.WORLD)
    except PlannerError as error:
        raise ConfigError(
            f"the embedding tables cannot be placed on {dist.get_world_size()} ranks: {str(error).splitlines()[0]}",
            "use more ranks, smaller tables, or row_wise sharding for the large ones",
        ) from error


def write_plan(plan: ShardingPlan, path: Path) -> None:
    path.write_text(f"{plan}\n", encoding="utf-8")


def _sharding_types(config: ShardingConfig, table: str) -> list[str]:
    chosen = config.tables.get(table, config.default)
    return AUTO_TYPES if chosen == "auto" else [chosen]


def _topology(device: torch.device) -> Topology:
    num_ranks = dist.get_world_size()
    ranks_per_node = int(os.environ.get("LOCAL_WORLD_SIZE", num_ranks))
    host_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // ranks_per_node
    device_bytes = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
    return Topology(
        world_size=num_ranks,
        local_world_size=ranks_per_node,
        compute_device=device.type,
        hbm_cap=device_bytes or None,
        ddr_cap=host_bytes,
    )
