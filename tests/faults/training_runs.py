"""Runs of `gatehouse train` in processes of their own, and what is left of them."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from pipeline.config import RESOLVED_NAME, dump
from pipeline.run_config import RunConfig
from pipeline.train.checkpoints.checkpoint import list_checkpoints
from pipeline.train.checkpoints.reader import load_tensors, saved_sizes
from pipeline.train.telemetry import read_history

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 150


def start(
    verb: str, config: RunConfig, *arguments: str, stderr: IO[Any] | int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """A process of the command line on a configuration."""
    dump(config, config.workspace_dir)
    command = [sys.executable, "-m", "jobs", verb, "--config", str(config.workspace_dir / RESOLVED_NAME), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True)


def wait_for_step(config: RunConfig, step: int, process: subprocess.Popen[str]) -> int:
    """Returns the last step in the history as soon as it is `step` or more."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        history = read_history(config.workspace_dir)
        if history and history[-1]["step"] >= step:
            return int(history[-1]["step"])
        assert process.poll() is None, "the run ended before the fault"
        assert time.monotonic() < deadline, "the run did not reach the step"
        time.sleep(0.005)


def digest_of(checkpoint: Path) -> str:
    """A sha256 over every tensor of a checkpoint, parameters and optimizer state, whatever the files they are in."""
    import torch

    sizes = saved_sizes(checkpoint)
    tensors = {name: torch.zeros(size) for name, size in sorted(sizes.items())}
    load_tensors(checkpoint, tensors, is_distributed=False)
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def newest_digest(config: RunConfig) -> str:
    return digest_of(list_checkpoints(config.checkpoints_dir)[-1])


def losses_of(config: RunConfig) -> list[tuple[int, str, dict[str, float]]]:
    return [(r["step"], r["kind"], r["losses"]) for r in read_history(config.workspace_dir)]
