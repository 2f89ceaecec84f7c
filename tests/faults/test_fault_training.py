"""What happens to a training run when a process, a rank or a number fails: each fault is injected into a real run."""

import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gloo_ranks import assert_same_evaluation, train_on_ranks
from torch.multiprocessing.spawn import ProcessRaisedException
from training_runs import ROOT, losses_of, newest_digest, start, wait_for_step

from pipeline.config import RESOLVED_NAME, dump
from pipeline.errors import TrainingError
from pipeline.evaluate.run import evaluate
from pipeline.run_config import RunConfig
from pipeline.train.batches import read_rows
from pipeline.train.checkpoints.checkpoint import list_checkpoints, read_manifest
from pipeline.train.run import train
from pipeline.train.telemetry import read_history

EVERY_STEPS = 10


@pytest.fixture
def clean(make_config: Any) -> RunConfig:
    """An undisturbed run of one rank."""
    config: RunConfig = make_config("clean", train={"checkpoint_every_steps": EVERY_STEPS, "record_rows": True})
    train(config)
    return config


def again(make_config: Any, **changes: Any) -> RunConfig:
    config: RunConfig = make_config(
        "disturbed", train={"checkpoint_every_steps": EVERY_STEPS, "record_rows": True, **changes}
    )
    return config


def assert_undisturbed(config: RunConfig, clean: RunConfig) -> None:
    assert newest_digest(config) == newest_digest(clean)
    assert losses_of(config) == losses_of(clean)
    assert read_rows(config.workspace_dir) == read_rows(clean.workspace_dir)


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_an_undisturbed_one(
    clean: RunConfig, make_config: Any, fault_seed: int
) -> None:
    config, choose = again(make_config), random.Random(fault_seed)
    last_step = read_history(clean.workspace_dir)[-1]["step"]
    arguments: tuple[str, ...] = ()
    for part in range(3):
        step = round(last_step * (part + choose.random()) / 3) or 1
        process = start("train", config, *arguments)
        reached = wait_for_step(config, step, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        saved = [read_manifest(path).step for path in list_checkpoints(config.checkpoints_dir)]
        lost = reached - max(saved, default=0)
        print(f"seed {fault_seed}: killed after step {reached}, {lost} steps to be done again")
        assert lost <= 2 * EVERY_STEPS
        arguments = ("--resume",) if saved else ()
    train(config, resume=True)
    assert_undisturbed(config, clean)


@pytest.mark.slow
def test_sigterm_ends_with_a_checkpoint_of_the_last_step_and_143(clean: RunConfig, make_config: Any) -> None:
    config = again(make_config)
    process = start("train", config)
    wait_for_step(config, 23, process)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate()
    assert process.returncode == 143
    assert re.fullmatch(
        r"error: training was stopped after step \d+ .* Go on with --resume, which `retrain` does unasked\.\n", error
    ), error
    last = read_history(config.workspace_dir)[-1]["step"]
    assert read_manifest(list_checkpoints(config.checkpoints_dir)[-1], verify=True).step == last
    train(config, resume=True)
    assert_undisturbed(config, clean)


CUT_POINTS = {
    "before the metadata": "pipeline.train.checkpoints.writer._RetryingWriter.finish",
    "before the manifest": "pipeline.train.checkpoints.writer.commit",
    "before the rename": "pipeline.train.checkpoints.checkpoint.discard",
}
KILL_AT_THE_THIRD_CALL = """
import os, pkgutil, signal, sys
from unittest import mock
from pipeline.run_config import load_run_config
from pipeline.train.run import train

target, config = sys.argv[1], load_run_config(sys.argv[2])
function, calls = pkgutil.resolve_name(target), []

def kill_at_the_third(*given, **named):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*given, **named)

with mock.patch(target, kill_at_the_third):
    train(config)
"""


@pytest.mark.slow
@pytest.mark.parametrize("point", CUT_POINTS)
def test_a_kill_inside_a_checkpoint_leaves_the_one_before(clean: RunConfig, make_config: Any, point: str) -> None:
    config = again(make_config)
    dump(config, config.workspace_dir)
    arguments = [CUT_POINTS[point], str(config.workspace_dir / RESOLVED_NAME)]
    command = [sys.executable, "-c", KILL_AT_THE_THIRD_CALL, *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    folder = config.checkpoints_dir
    assert [read_manifest(path, verify=True).step for path in list_checkpoints(folder)] == [10, 20]
    assert list(folder.glob(".partial-*"))
    train(config, resume=True)
    assert not list(folder.glob(".partial-*"))
    assert_undisturbed(config, clean)


@pytest.mark.slow
def test_resumed_on_other_ranks_each_row_is_seen_once_and_the_curve_stays(make_config: Any, tmp_path: Path) -> None:
    settings = {"record_rows": True, "checkpoint_every_steps": EVERY_STEPS}
    whole = make_config("whole", train={**settings, "sharding": {"default": "row_wise"}})
    train_on_ranks(whole, 2, tmp_path / "store")
    plans = ({"default": "row_wise"}, {"default": "table_wise"}, {"tables": {"user*": "data_parallel"}})
    for num_ranks, stop_after, sharding in zip((2, 1, 4), (25, 20, None), plans, strict=True):
        moved = make_config("moved", train={**settings, "sharding": sharding})
        train_on_ranks(moved, num_ranks, tmp_path / "store", stop_after=stop_after)
    assert [read_manifest(path).num_ranks for path in list_checkpoints(moved.checkpoints_dir)][-1] == 4
    rows = read_rows(moved.workspace_dir)
    assert rows == read_rows(whole.workspace_dir)
    seen = [row for step in rows.values() for row in step]
    assert len(seen) == len(set(seen))
    worst = 0.0
    for found, expected in zip(read_history(moved.workspace_dir), read_history(whole.workspace_dir), strict=True):
        assert (found["step"], found["kind"]) == (expected["step"], expected["kind"])
        worst = max(worst, *(abs(found["losses"][task] - expected["losses"][task]) for task in found["losses"]))
    print(f"2 -> 1 -> 4 ranks: {len(seen)} rows once each, worst difference of a loss {worst:.1e}")
    assert worst < 1e-5
    assert_same_evaluation(evaluate(moved), evaluate(whole))


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_and_its_stacks_are_written(make_config: Any, tmp_path: Path) -> None:
    config = make_config(train={"collective_timeout_seconds": 5, "watchdog_seconds": 2})
    before = time.monotonic()
    with pytest.raises(ProcessRaisedException, match="rank 1 of 2 did not answer at step 4 within the 5 s"):
        train_on_ranks(config, 2, tmp_path / "store", stop_after=3, hanging_rank=1)
    print(f"ended after {time.monotonic() - before:.0f} s, start of the processes included")
    stacks = (config.workspace_dir / "stacks" / "rank-00001.txt").read_text()
    assert "is_stop_requested" in stacks


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(make_config: Any) -> None:
    # Steps that grow until the numbers overflow.
    exploding = {"dense_optimizer": {"kind": "sgd", "learning_rate": 1e20}, "dense_schedule": {"warmup_steps": 10**18}}
    config = make_config(train={**exploding, "checkpoint_every_steps": 1, "keep_checkpoints": 3, "log_every_steps": 7})
    with pytest.raises(TrainingError) as caught:
        train(config)
    print(caught.value)
    message = str(caught.value)
    found = re.search(r"is not a number at step (\d+), batch (\d+) of 59 of epoch 1; the last good", message)
    assert found, message
    newest = list_checkpoints(config.checkpoints_dir)[-1]
    assert str(newest) in message
    assert read_manifest(newest, verify=True).step == int(found[1]) - 1 == int(found[2]) - 1
    assert not list(config.checkpoints_dir.glob(".partial-*"))
