"""Trains on several real processes over gloo, without a cluster."""

import multiprocessing
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pipeline.errors import StoppedError
from pipeline.run_config import RunConfig
from pipeline.train.guards.stopping import Signals
from pipeline.train.rank import train_rank
from pipeline.train.telemetry import read_history

NUM_EXCHANGED_PAIRS = 10
TOLERANCE = 1e-6


def train_on_ranks(
    config: RunConfig,
    num_ranks: int,
    store: Path,
    *,
    stop_after: int | None = None,
    hanging_rank: int | None = None,
) -> list[dict[str, Any]]:
    """The training history of a run on `num_ranks` processes; `store` is a file they meet at.

    After `stop_after` steps of this attempt it is asked to stop, or `hanging_rank` sleeps for good.
    """
    store.unlink(missing_ok=True)
    settings = config.model_dump(mode="json", by_alias=True)
    arguments = (num_ranks, settings, str(store), stop_after, hanging_rank)
    start_ranks(_run_rank, arguments, num_ranks)
    return read_history(config.workspace_dir)


def start_ranks(function: Callable[..., None], arguments: tuple[object, ...], num_ranks: int) -> None:
    """Calls `function` with a rank and the arguments in a process per rank, and waits for all of them.

    They are forked from a process that has loaded what every rank loads, and has no threads.
    """
    multiprocessing.set_forkserver_preload(["pipeline.train.rank"])
    mp.start_processes(  # type: ignore[attr-defined, no-untyped-call]
        function, args=arguments, nprocs=num_ranks, start_method="forkserver"
    )


def _run_rank(
    rank: int,
    num_ranks: int,
    settings: dict[str, Any],
    store: str,
    stop_after: int | None,
    hanging_rank: int | None,
) -> None:
    torch.set_num_threads(1)
    config = RunConfig.model_validate(settings)
    timeout = timedelta(seconds=config.train.collective_timeout_seconds)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=num_ranks, timeout=timeout)
    num_looks = 0

    def is_stop_requested() -> bool:
        nonlocal num_looks
        num_looks += 1
        is_time = stop_after is not None and num_looks > stop_after
        while is_time and rank == hanging_rank:
            time.sleep(1)
        # One rank that is asked stops all of them.
        return is_time and hanging_rank is None and rank == num_ranks - 1

    try:
        train_rank(config, Signals(is_stop_requested))
    except StoppedError:
        assert stop_after is not None
    dist.barrier()
    # gloo's threads can outlive the interpreter's end and abort it.
    os._exit(0)


def assert_same_evaluation(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Metrics of two reports are equal to `TOLERANCE`, or AUC and XAUC to the exchange of a few of their pairs of rows.

    Rounding can exchange two rows with nearly equal predictions, which moves the AUC by one pair, however small it is.
    GAUC, where one pair of one user can weigh much, is left out.
    """
    for ours, theirs in zip(found["tasks"], expected["tasks"], strict=True):
        for name, metric in theirs["metrics"].items():
            if name == "gauc" or metric["value"] is None:
                continue
            slack = 0.0
            if name == "auc":
                slack = NUM_EXCHANGED_PAIRS / (theirs["positives"] * (theirs["rows"] - theirs["positives"]))
            if name == "xauc":
                slack = NUM_EXCHANGED_PAIRS / (theirs["rows"] * (theirs["rows"] - 1) / 2)
            value = ours["metrics"][name]["value"]
            assert value == pytest.approx(metric["value"], rel=TOLERANCE, abs=TOLERANCE + slack), (ours["name"], name)
