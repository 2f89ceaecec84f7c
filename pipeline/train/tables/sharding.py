"""Places the embedding tables of a run on its ranks: the sharders, this machine's memory, and the agreement of all."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.types import BoundsCheckMode, ModuleSharder, ShardingPlan

from pipeline.errors import ConfigError
from pipeline.train.config import ShardingConfig
from pipeline.train.tables.misfit import misfit
from pipeline.train.tables.placement import GIB, Hardware, TableSet, place
from pipeline.train.tables.plan_text import describe_placement
from pipeline.train.tables.settings import TableSettings


class _BagSharder(EmbeddingBagCollectionSharder):  # type: ignore[misc]
    """torchrec hides the types that split rows on CPU, where they work; this lists them."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        hidden = {"row_wise", "table_row_wise", "grid_shard"}
        return sorted({*super().sharding_types(compute_device_type), *hidden})


def make_sharders() -> list[ModuleSharder[nn.Module]]:
    """The sharders of a run. Ids are checked on the host before; FATAL is the net below that."""
    fused_params = {"bounds_check_mode": BoundsCheckMode.FATAL}
    return [
        _BagSharder(fused_params=dict(fused_params)),
        EmbeddingCollectionSharder(fused_params=dict(fused_params)),
    ]


@dataclass(frozen=True)
class TablePlan:
    """The placement of every table, for torchrec and for people."""

    sharding: ShardingPlan
    text: str


def plan_tables(
    model: nn.Module,
    table_of: Mapping[str, str],
    settings: Mapping[str, TableSettings],
    config: ShardingConfig,
    sharders: list[ModuleSharder[nn.Module]],
    device: torch.device,
    rows_per_rank: int,
    ids_per_row: Mapping[str, int],
) -> TablePlan:
    """The placement of every table, made on rank 0 and sent to all. Needs a process group, and the fused optimizers.

    `table_of` gives the configured table of each table of the model. Every rank is taken to have the memory of rank 0.

    Raises:
        ConfigError: the tables do not fit; on every rank. Rank 0 says what is missing and what helps, which takes it
            longer than the others could wait: they are told before.
    """
    plans: list[TablePlan | None] = [None]
    if dist.get_rank() == 0:
        tables = TableSet(model, table_of, settings, sharders, rows_per_rank, ids_per_row)
        hardware = _this_hardware(config, device)
        if placement := place(tables, hardware):
            plans = [TablePlan(placement.sharding, describe_placement(placement, tables, hardware))]
    dist.broadcast_object_list(plans, src=0)
    if plans[0] is None:
        if dist.get_rank() == 0:
            raise misfit(tables, hardware)
        raise ConfigError("the embedding tables do not fit", "see the message of rank 0, which seeks what helps")
    return plans[0]


def host_memory_gib(ranks_per_node: int) -> float:
    """A rank's share of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / ranks_per_node / GIB


def _this_hardware(config: ShardingConfig, device: torch.device) -> Hardware:
    num_ranks = dist.get_world_size()
    # Nodes of one size: the planner knows no others.
    ranks_per_node = math.gcd(num_ranks, int(os.environ.get("LOCAL_WORLD_SIZE", num_ranks)))
    device_gib = torch.cuda.get_device_properties(device).total_memory / GIB if device.type == "cuda" else 0.0
    return Hardware(
        num_ranks,
        ranks_per_node,
        device.type,
        config.device_memory_gib or device_gib,
        config.host_memory_gib or host_memory_gib(ranks_per_node),
        config.reserved_fraction,
    )
