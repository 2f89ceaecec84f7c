"""What happens to a training run on Ray when one of its workers, or its driver, is killed."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from gloo_ranks import train_on_ranks
from ray_processes import ray_processes_below
from training_runs import WAIT_SECONDS, losses_of, newest_digest, start, wait_for_step

from pipeline.run_config import RunConfig
from pipeline.train.batches import read_rows
from pipeline.train.checkpoints.checkpoint import list_checkpoints, read_manifest
from pipeline.train.telemetry import read_history

EVERY_STEPS = 10
SETTINGS = {
    "num_ranks": 2,
    "max_epochs": 3,
    "checkpoint_every_steps": EVERY_STEPS,
    "record_rows": True,
    "sharding": {"tables": {"user_id": "row_wise", "*": "table_wise"}},
    "collective_timeout_seconds": 30,
}


@pytest.fixture(scope="module")
def clean_of() -> dict[str, RunConfig]:
    return {}


@pytest.fixture
def clean(clean_of: dict[str, RunConfig], make_config: Any, tmp_path: Path) -> RunConfig:
    """An undisturbed run on two ranks, without Ray; one for all tests of a process."""
    if not clean_of:
        clean_of["clean"] = make_config("clean", train=SETTINGS)
        train_on_ranks(clean_of["clean"], 2, tmp_path / "store")
    return clean_of["clean"]


def assert_undisturbed(config: RunConfig, clean: RunConfig) -> None:
    assert newest_digest(config) == newest_digest(clean)
    assert losses_of(config) == losses_of(clean)
    assert read_rows(config.workspace_dir) == read_rows(clean.workspace_dir)


@pytest.mark.exhaustive
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_killed_worker_is_replaced_and_nothing_is_lost(clean: RunConfig, make_config: Any, fault_seed: int) -> None:
    choose = random.Random(fault_seed)
    config = make_config("killed", train=SETTINGS)
    last_step = read_history(clean.workspace_dir)[-1]["step"]
    process = start("train", config)
    reached = wait_for_step(config, choose.randrange(1, last_step * 3 // 4), process)
    workers = ray_processes_below(process.pid, "RayTrainWorker")
    assert len(workers) == 2
    os.kill(choose.choice(workers), signal.SIGKILL)
    saved = max((read_manifest(path).step for path in list_checkpoints(config.checkpoints_dir)), default=0)
    _, error = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0, error
    print(f"seed {fault_seed}: a worker killed after step {reached}, newest checkpoint {saved}")
    assert reached - saved <= 2 * EVERY_STEPS
    assert_undisturbed(config, clean)


@pytest.mark.exhaustive
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_sigterm_to_the_driver_stops_all_workers_with_a_checkpoint(clean: RunConfig, make_config: Any) -> None:
    config = make_config("stopped", train=SETTINGS)
    process = start("train", config)
    wait_for_step(config, 15, process)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 143, error
    last = read_history(config.workspace_dir)[-1]["step"]
    manifest = read_manifest(list_checkpoints(config.checkpoints_dir)[-1], verify=True)
    assert (manifest.step, manifest.num_ranks) == (last, 2)
    assert last < read_history(clean.workspace_dir)[-1]["step"]
    deadline = time.monotonic() + WAIT_SECONDS
    while ray_processes_below(process.pid, "RayTrainWorker"):
        assert time.monotonic() < deadline, "workers outlive their driver"
        time.sleep(0.1)
    train_on_ranks(config, 2, config.workspace_dir / "store")
    assert_undisturbed(config, clean)
