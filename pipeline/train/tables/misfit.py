"""Tables that do not fit: which one, how much memory is missing, and what would make them fit."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torchrec.distributed.planner.types import ShardingOption

from pipeline.errors import ConfigError
from pipeline.train.config import TableShardingConfig
from pipeline.train.tables.placement import GIB, Hardware, Placement, TableSet, place
from pipeline.train.tables.plan_text import describe_nodes, table_gib, type_of
from pipeline.train.tables.settings import check_table_settings

MAX_RANKS = 1024
MEMORY_PRECISION = 1.02


def misfit(tables: TableSet, hardware: Hardware) -> ConfigError:
    """The error for tables that do not fit: the largest one on the fullest rank, what is missing, and what helps.

    What is missing is found by planning with more memory, and each remedy by planning with it.
    """
    tight = _place_with_least_memory(tables, hardware)
    if tight is None:
        return ConfigError(
            f"the embedding tables cannot be placed on {hardware.num_ranks} ranks, whatever their memory",
            "set train.sharding.default to auto and remove train.sharding.tables",
        )
    what, option = _what_is_missing(tight, tables, hardware)
    remedies = list(_remedies(tables, hardware, option)) or list(_remedies_for_all(tables, hardware))
    if not remedies:
        return ConfigError(
            what,
            "no single change makes the tables fit (tried: other types and kernels for this one, half its width, up to "
            f"{MAX_RANKS:,} ranks), so combine some, or give the largest tables fewer rows",
        )
    return ConfigError(what, "\n  - ".join(["what makes the tables fit, each planned again:", *remedies]))


def _what_is_missing(tight: Placement, tables: TableSet, hardware: Hardware) -> tuple[str, ShardingOption]:
    """What to say of the fullest rank, and the largest table on it."""
    usage = tight.usage(hardware.num_ranks)
    budgets = (hardware.device_budget_gib, hardware.host_budget_gib)
    memories = (hardware.device_memory_gib, hardware.host_memory_gib)
    missing, rank, kind = max((used[k] - budgets[k], r, k) for r, used in enumerate(usage) for k in (0, 1))
    part_of = {
        option.name: sum((s.storage.hbm, s.storage.ddr)[kind] for s in option.shards if s.rank == rank) / GIB
        for option in tight.options
    }
    option = max(tight.options, key=lambda option: part_of[option.name])
    table = tables.table_of[option.name]
    optimizer = tables.settings[table].optimizer.kind
    rows, width = option.tensor.shape
    ranks = "1 rank" if hardware.num_ranks == 1 else f"{hardware.num_ranks} ranks"
    reserved = f"{memories[kind]:,.1f} GiB less {hardware.reserved_fraction:.0%} reserved"
    what = (
        f"table {table!r} does not fit on {ranks}: {missing:,.1f} GiB of {('GPU', 'host')[kind]} memory are missing on "
        f"the fullest of them. That rank has {budgets[kind]:,.1f} GiB for tables ({reserved}) and needs "
        f"{usage[rank][kind]:,.1f} GiB, of which {part_of[option.name]:,.1f} GiB are its part of this table, "
        f"{type_of(option)}; the whole table, {rows:,} rows x {width} with {optimizer}, is "
        f"{table_gib(option, optimizer):,.1f} GiB"
    )
    return what, option


def _place_with_least_memory(tables: TableSet, hardware: Hardware) -> Placement | None:
    """A placement on ranks with hardly more memory than it takes, or None if it is not memory that lacks."""

    def place_with(factor: float) -> Placement | None:
        memories = (hardware.device_memory_gib * factor, hardware.host_memory_gib * factor)
        return place(tables, replace(hardware, device_memory_gib=memories[0], host_memory_gib=memories[1]))

    too_little, enough = 1.0, 2.0
    while (found := place_with(enough)) is None:
        too_little, enough = enough, enough * 2
        if enough > 2**40:
            return None
    while enough / too_little > MEMORY_PRECISION:
        middle = math.sqrt(too_little * enough)
        placement = place_with(middle)
        if placement is None:
            too_little = middle
        else:
            enough, found = middle, placement
    return found


def _remedies(tables: TableSet, hardware: Hardware, option: ShardingOption) -> Iterator[str]:
    """Single changes that make the tables fit, each planned with."""
    table = tables.table_of[option.name]
    sharding = tables.settings[table].sharding
    key = f"train.sharding.tables.{table}"
    for type_ in ("row_wise", "table_row_wise", "column_wise", "grid"):
        if _fits_with(tables, hardware, table, type=type_, min_columns=None):
            yield f"{key}: {type_} instead of {sharding.type}"
            break
    for kernel in ("fused_uvm_caching", "fused_uvm"):
        if _fits_with(tables, hardware, table, kernel=kernel):
            type_text = "" if sharding.type == "auto" else f"type: {sharding.type}, "
            yield f"{key}: {{{type_text}kernel: {kernel}}}, in host memory"
            break
    if _shrinks_with_ranks(option, sharding, hardware) and (ranks := _enough_ranks(tables, hardware)):
        yield ranks
    width = option.tensor.shape[1] // 2
    # The tables that are attended to must be of one width.
    if width % 4 == 0 and table not in tables.attended() and place(tables.with_width(table, width), hardware):
        yield f"model.front_end.embedding_dims.{table}: {width} instead of {width * 2}"


def _remedies_for_all(tables: TableSet, hardware: Hardware) -> Iterator[str]:
    """Freedom for the planner to shard every table as it finds best, and more ranks if that is not enough."""
    free = replace(
        tables, settings={name: replace(own, sharding=TableShardingConfig()) for name, own in tables.settings.items()}
    )
    if free == tables:
        return
    freedom = "train.sharding.default: auto, and nothing under train.sharding.tables"
    if place(free, hardware):
        yield freedom
    elif ranks := _enough_ranks(free, hardware):
        yield f"{freedom}, and {ranks}"


def _fits_with(tables: TableSet, hardware: Hardware, table: str, **changes: Any) -> bool:
    """Whether the tables fit with other sharding for one table, if that is something new and allowed."""
    settings = tables.settings[table]
    changed = replace(settings, sharding=settings.sharding.model_copy(update=changes))
    if changed == settings:
        return False
    try:
        check_table_settings({table: changed}, hardware.device, tables.attended())
    except ConfigError:
        return False
    return place(replace(tables, settings={**tables.settings, table: changed}), hardware) is not None


def _shrinks_with_ranks(option: ShardingOption, sharding: TableShardingConfig, hardware: Hardware) -> bool:
    """Whether more nodes can help a table: only parts of rows of all ranks become smaller."""
    fits = all(
        shard.storage.hbm <= hardware.device_budget_gib * GIB and shard.storage.ddr <= hardware.host_budget_gib * GIB
        for shard in option.shards
    )
    return fits or sharding.type in ("auto", "row_wise")


def _enough_ranks(tables: TableSet, hardware: Hardware) -> str | None:
    """How many ranks the tables fit on, with the same global batch: as often as needed twice the number of nodes."""
    more = replace(hardware, num_ranks=hardware.num_ranks * 2)
    while more.num_ranks <= MAX_RANKS:
        rows_per_rank = max(tables.rows_per_rank * hardware.num_ranks // more.num_ranks, 1)
        if place(replace(tables, rows_per_rank=rows_per_rank), more):
            return f"{more.num_ranks} ranks like these ({describe_nodes(more)}) instead of {hardware.num_ranks}"
        more = replace(more, num_ranks=more.num_ranks * 2)
    return None
