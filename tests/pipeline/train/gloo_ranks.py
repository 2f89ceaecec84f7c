"""Trains on several real processes over gloo, without a cluster."""

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pipeline.run_config import RunConfig
from pipeline.train.run import _train_rank
from pipeline.train.telemetry import read_history


def train_on_ranks(config: RunConfig, num_ranks: int, store: Path) -> list[dict[str, Any]]:
    """The training history of a run on `num_ranks` processes; `store` is a file they meet at."""
    store.unlink(missing_ok=True)
    settings = config.model_dump(mode="json", by_alias=True)
    mp.start_processes(_run_rank, args=(num_ranks, settings, str(store)), nprocs=num_ranks, start_method="spawn")  # type: ignore[attr-defined, no-untyped-call]
    return read_history(config.workspace_dir)


def _run_rank(rank: int, num_ranks: int, settings: dict[str, Any], store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=num_ranks)
    _train_rank(RunConfig.model_validate(settings))
    dist.barrier()
    # gloo's threads can outlive the interpreter's end and abort it.
    os._exit(0)
