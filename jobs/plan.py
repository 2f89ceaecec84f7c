"""`gatehouse plan`: where the embedding tables would go, on hardware that need not be here."""

from typing import Annotated

import typer

from jobs.options import ConfigPath, Overrides, load
from pipeline.errors import UsageError

GPUS_PER_NODE = 8
GPU_MEMORY_GIB = 80.0
GPU_HOST_MEMORY_GIB = 128.0


def main(
    config: ConfigPath,
    set_: Overrides = None,
    ranks: Annotated[int | None, typer.Option(help="Default: train.num_ranks, else 1.", metavar="N")] = None,
    ranks_per_node: Annotated[
        int | None, typer.Option(help=f"Default: up to {GPUS_PER_NODE} of them.", metavar="N")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Default: train.device, or what this machine has.", metavar="cpu|cuda")
    ] = None,
    device_memory_gib: Annotated[
        float | None,
        typer.Option(help=f"Of one GPU. Default: train.sharding.device_memory_gib, else {GPU_MEMORY_GIB:g}."),
    ] = None,
    host_memory_gib: Annotated[
        float | None,
        typer.Option(
            help="Of one rank: a node's memory divided by its ranks. Default: train.sharding.host_memory_gib, else "
            f"{GPU_HOST_MEMORY_GIB:g} beside a GPU, and this machine's on the CPU."
        ),
    ] = None,
) -> None:
    """Print the sharding plan, memory and cost per rank, or which table does not fit and what would make it fit."""
    if device not in (None, "cpu", "cuda"):
        raise UsageError(f"--device is {device!r}", "choose cpu or cuda")
    for option, value in (
        ("--ranks", ranks),
        ("--ranks-per-node", ranks_per_node),
        ("--device-memory-gib", device_memory_gib),
        ("--host-memory-gib", host_memory_gib),
    ):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"{option} is {value:g}", "give a number above 0")
    run_config = load(config, set_)
    num_ranks = ranks or run_config.train.num_ranks or 1
    if ranks_per_node is None:
        ranks_per_node = next(n for n in range(GPUS_PER_NODE, 0, -1) if num_ranks % n == 0)
    if num_ranks % ranks_per_node:
        raise UsageError(
            f"{num_ranks} ranks are not a whole number of nodes of {ranks_per_node}",
            f"give --ranks-per-node a divisor of {num_ranks}",
        )
    from pipeline.train.device import rank_device
    from pipeline.train.tables.placement import Hardware
    from pipeline.train.tables.plan import plan_run
    from pipeline.train.tables.sharding import host_memory_gib as host_memory_here

    if device is None:
        configured = run_config.train.device
        device = rank_device(run_config.train).type if configured == "auto" else configured
    sharding = run_config.train.sharding
    default_host_gib = GPU_HOST_MEMORY_GIB if device == "cuda" else host_memory_here(ranks_per_node)
    hardware = Hardware(
        num_ranks,
        ranks_per_node,
        device,
        device_memory_gib or sharding.device_memory_gib or GPU_MEMORY_GIB,
        host_memory_gib or sharding.host_memory_gib or default_host_gib,
        sharding.reserved_fraction,
    )
    print(plan_run(run_config, hardware), end="")
