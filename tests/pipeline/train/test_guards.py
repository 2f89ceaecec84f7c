"""The small parts that watch over a run: prefetch, watchdog, stop, finite losses, preemption."""

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_model import batch_of, make_rows

from models.batch import Batch
from pipeline.errors import TrainingError
from pipeline.shards.manifest import read_index
from pipeline.train.checkpoints.checkpoint import list_checkpoints, read_manifest
from pipeline.train.guards.loss_watch import LossWatch
from pipeline.train.guards.stopping import Signals, StopFile, on_sigterm
from pipeline.train.guards.watchdog import Watchdog
from pipeline.train.prefetch import DEPTH, prefetched
from pipeline.train.rank import train_rank
from pipeline.train.run import one_rank_group

WAIT_SECONDS = 20


@pytest.fixture
def no_pinning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Batch, "pin_memory", lambda self: self)


def wait_until(claim: Any) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.usefixtures("no_pinning")
def test_prefetched_batches_come_in_order_and_few_ahead() -> None:
    batches = [batch_of(make_rows(4, seed)) for seed in range(12)]
    taken = []

    def source() -> Iterator[Batch]:
        for place, batch in enumerate(batches):
            taken.append(place)
            yield batch

    ahead = prefetched(source())
    assert next(ahead) is batches[0]
    wait_until(lambda: len(taken) == DEPTH + 2)
    assert list(ahead) == batches[1:]


@pytest.mark.usefixtures("no_pinning")
def test_an_error_of_the_reader_arrives_in_its_place_and_closing_ends_the_thread() -> None:
    batch = batch_of(make_rows(4))

    def source() -> Iterator[Batch]:
        yield batch
        raise ValueError("a broken shard")

    ahead = prefetched(source())
    assert next(ahead) is batch
    with pytest.raises(ValueError, match="a broken shard"):
        next(ahead)
    endless = prefetched(iter(lambda: batch, None))
    next(endless)
    endless.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_the_watchdog_dumps_the_stacks_of_a_stall_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "stacks" / "rank-00000.txt"
    with Watchdog(0.04, path):
        wait_until(path.exists)
        time.sleep(0.2)
    assert "test_the_watchdog_dumps_the_stacks_of_a_stall_once" in path.read_text()
    assert capfd.readouterr().err.count("warning: no training step has ended") == 1


def test_the_watchdog_is_silent_while_steps_end(tmp_path: Path) -> None:
    with Watchdog(10.0, tmp_path / "stacks") as watchdog:
        watchdog.beat()
    assert not (tmp_path / "stacks").exists()


def test_sigterm_is_noticed_inside_the_block_only() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with on_sigterm() as asked:
        assert not asked.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.wait(WAIT_SECONDS)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_stop_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.train.guards.stopping.LOOK_SECONDS", 0.0)
    look = StopFile(tmp_path / "stop")
    assert not look()
    (tmp_path / "stop").touch()
    assert look()


def test_the_first_bad_step_is_named_with_its_tasks_and_its_batch(tmp_path: Path) -> None:
    watch = LossWatch(["click", "like"], 100, lambda: tmp_path / "step-00000240", torch.device("cpu"))
    good = torch.ones(2, 2)
    watch.note(250, good)
    watch.check()
    watch.note(251, torch.tensor([[1.0, math.inf], [1.0, 1.0]]))
    watch.note(252, good * math.nan)
    with pytest.raises(TrainingError) as caught:
        watch.check()
    assert "the loss of 'like' is not a number at step 251, batch 51 of 100 of epoch 3" in str(caught.value)
    assert f"the last good checkpoint is {tmp_path}/step-00000240" in str(caught.value)


class AloneOnTheRoll:
    """A roll call of one rank."""

    def gather(self, text: str) -> list[str]:
        return [text]


def checked(state: dict[str, Any]) -> str:
    """What the check of a state after step 1 says, if anything."""
    watch = LossWatch(["click"], 100, lambda: None, torch.device("cpu"))
    try:
        watch.check_state(1, state, AloneOnTheRoll())  # type: ignore[arg-type]
    except TrainingError as error:
        return error.what
    return ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_no_number_is_found_at_any_place_of_a_state(
    value: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.train.guards.loss_watch.VALUES_AT_ONCE", 16)
    good = {"lengths": torch.arange(9), "none": torch.zeros(0, 4), "step": torch.tensor(3.0), "seen": torch.ones(2) > 0}
    for place in range(41):
        row = torch.randn(41).to(dtype)
        assert not checked({**good, "model": {"table": row.view(1, 41), "turned": row.expand(3, 41).T}})
        row[place] = value
        assert checked({**good, "model": {"table": row}}).startswith("tensor model.table is not a number at step 1")
        assert "model.turned" in checked({**good, "model": {"turned": row.expand(3, 41).T}})


def test_the_check_of_a_state_needs_no_memory_of_the_size_of_a_table() -> None:
    table = torch.ones(1 << 20)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        assert not checked({"table": table})
    taken = [event.self_cpu_memory_usage for event in profile.events()]
    assert 0 < sum(size for size in taken if size > 0) < table.nbytes / 100


def test_a_machine_that_will_be_taken_away_gets_a_checkpoint_and_the_run_goes_on(make_config: Any) -> None:
    config = make_config(train={"log_every_steps": 7, "keep_checkpoints": 9})
    looks = iter([False, True])
    with one_rank_group(config):
        train_rank(config, Signals(is_preempted=lambda: next(looks, False)))
    steps = [read_manifest(path).step for path in list_checkpoints(config.checkpoints_dir)]
    num_steps = -(-read_index(config.dataset_dir).num_rows("train") // config.train.global_batch_size)
    assert steps == [14, num_steps]
