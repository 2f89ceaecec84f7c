"""A placement of tables as text for people: what `gatehouse plan` prints and `plan.txt` holds."""

import statistics
from collections.abc import Sequence

from torchrec.distributed.planner.types import ShardingOption

from pipeline.train.tables.placement import GIB, TORCHREC_TYPES, Hardware, Placement, TableSet

# Numbers of float32 that a sparse optimizer keeps: per element of a table, and per row.
STATE_SIZES = {
    "sgd": (0, 0),
    "adagrad": (1, 0),
    "rowwise_adagrad": (0, 1),
    "adam": (2, 0),
    "partial_rowwise_adam": (1, 1),
}
MAX_RANK_LINES = 8
MAX_RANKS_TEXT = 36


def describe_placement(placement: Placement, tables: TableSet, hardware: Hardware) -> str:
    """The plan as text of at most 120 columns: hardware, tables, memory and time per rank, and where that is from."""
    if not placement.options:
        return "no embedding tables\n"
    optimizers = {name: tables.settings[table].optimizer.kind for name, table in tables.table_of.items()}
    sizes = {
        option.name: table_gib(option, optimizers[option.name]) * _num_copies(option) for option in placement.options
    }
    options = sorted(placement.options, key=lambda option: (-sizes[option.name], option.name))
    table_rows = [_table_row(option, optimizers[option.name], sizes[option.name]) for option in options]
    headers = ["table", "sharding", "kernel", "optimizer", "rows", "width", "parts", "ranks", "GiB"]
    usage = placement.usage(hardware.num_ranks)
    device, host, milliseconds = zip(*usage, strict=True)
    used = f"{gib_text(sum(device))} GiB on GPUs and " * hardware.is_cuda + f"{gib_text(sum(host))} GiB on hosts"
    lines = [
        *_hardware_lines(hardware, tables.rows_per_rank),
        "",
        *_columns(headers, table_rows, num_left=4),
        "",
        *_rank_lines(usage, hardware),
        "",
        f"tables with optimizer state {gib_text(sum(sizes.values()))} GiB, with buffers of the exchange {used}",
        f"slowest rank {max(milliseconds):.2f} ms, fastest {min(milliseconds):.2f} ms",
        *_source_lines(hardware),
    ]
    return "\n".join(lines) + "\n"


def _table_row(option: ShardingOption, optimizer: str, gib: float) -> list[str]:
    rows, width = option.tensor.shape
    num_ranks = len({shard.rank for shard in option.shards})
    names = [option.name, type_of(option), option.compute_kernel, optimizer]
    return [*names, f"{rows:,}", str(width), str(option.num_shards), str(num_ranks), gib_text(gib)]


def type_of(option: ShardingOption) -> str:
    """The sharding type by the name that the configuration has for it."""
    name: str = option.sharding_type
    return next((ours for ours, theirs in TORCHREC_TYPES.items() if theirs == name), name)


def table_gib(option: ShardingOption, optimizer: str) -> float:
    """Weights and optimizer state of a table, once."""
    rows, width = option.tensor.shape
    per_element, per_row = STATE_SIZES[optimizer]
    bytes_of_row = (width * (1 + per_element) + per_row) * option.tensor.element_size()
    return float(rows * bytes_of_row / GIB)


def _num_copies(option: ShardingOption) -> int:
    return int(option.num_shards) if option.sharding_type == "data_parallel" else 1


def _hardware_lines(hardware: Hardware, rows_per_rank: int) -> list[str]:
    kinds = [("GPU", hardware.device_memory_gib, hardware.device_budget_gib)] * hardware.is_cuda
    kinds.append(("host", hardware.host_memory_gib, hardware.host_budget_gib))
    ranks = "1 rank" if hardware.num_ranks == 1 else f"{hardware.num_ranks} ranks ({describe_nodes(hardware)})"
    return [
        f"{ranks} on {hardware.device}, {rows_per_rank:,} rows of a batch on each",
        "memory per rank: "
        + ", ".join(f"{total:,.1f} GiB {kind} ({budget:,.1f} for tables)" for kind, total, budget in kinds)
        + f"; {hardware.reserved_fraction:.0%} is reserved for all else",
    ]


def gib_text(gib: float) -> str:
    """A size with about three digits."""
    if gib >= 10 or gib == 0:
        return f"{gib:,.1f}"
    return f"{gib:.2f}" if gib >= 0.1 else f"{gib:.4f}" if gib >= 1e-4 else "<0.0001"


def describe_nodes(hardware: Hardware) -> str:
    """Such as "8 nodes of 8"."""
    num_nodes = hardware.num_ranks // hardware.ranks_per_node
    return f"{num_nodes} node{'s' * (num_nodes > 1)} of {hardware.ranks_per_node}"


def _rank_lines(usage: Sequence[tuple[float, float, float]], hardware: Hardware) -> list[str]:
    headers = ["ranks", *["GiB GPU"] * hardware.is_cuda, "GiB host", "ms/step"]
    ranks_of: dict[tuple[str, ...], list[int]] = {}
    for rank, used in enumerate(usage):
        ranks_of.setdefault(tuple(_usage_row(used, hardware)), []).append(rank)
    if len(ranks_of) <= MAX_RANK_LINES:
        return _columns(headers, [[_ranks_text(ranks), *row] for row, ranks in ranks_of.items()], num_left=1)
    folds = (("least", min), ("median", statistics.median), ("most", max))
    device, host, milliseconds = zip(*usage, strict=True)
    folded = [[name, *_usage_row((of(device), of(host), of(milliseconds)), hardware)] for name, of in folds]
    return _columns(headers, folded, num_left=1)


def _usage_row(usage: tuple[float, float, float], hardware: Hardware) -> list[str]:
    device, host, milliseconds = usage
    return [*[gib_text(device)] * hardware.is_cuda, gib_text(host), f"{milliseconds:.2f}"]


def _ranks_text(ranks: list[int]) -> str:
    """Such as "0-3, 8", or how many there are."""
    starts = [rank for rank in ranks if rank - 1 not in ranks]
    ends = [rank for rank in ranks if rank + 1 not in ranks]
    text = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))
    return text if len(text) <= MAX_RANKS_TEXT else f"{len(ranks)} others"


def _source_lines(hardware: Hardware) -> list[str]:
    topology = hardware.topology
    memory = topology.hbm_mem_bw if hardware.is_cuda else topology.ddr_mem_bw
    memory, within, between = (
        per_ms * 1000 / GIB for per_ms in (memory, topology.intra_host_bw, topology.inter_host_bw)
    )
    return [
        f"estimates of torchrec's planner, from its own bandwidths: {memory:g} GiB/s memory, {within:g} within a node, "
        f"{between:g} between nodes;",
        "ms/step is the reading, updating and exchanging of rows alone, at the most ids per row that the schema allows",
    ]


def _columns(headers: Sequence[str], rows: Sequence[Sequence[str]], num_left: int) -> list[str]:
    """Lines with the first columns to the left and the others, numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    lines = []
    for row in (headers, *rows):
        cells = [
            cell.ljust(width) if place < num_left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
