"""Two retrainings at once, and retrainings that are killed: in processes of their own, by SIGKILL."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from training_runs import ROOT, digest_of

from pipeline.config import RESOLVED_NAME, build, dump, read_config
from pipeline.registry.registry import Registry
from pipeline.retrain.champion import CHECKPOINT_FOLDER
from pipeline.retrain.state import read_state
from pipeline.run_config import RunConfig
from pipeline.simulate.run import simulate

NUM_RACES = 5
SLOT = "2025-01-09"

# For each folder that it reads from standard input: says that it is ready, starts when it is told to, and works until
# it is told to end. What a slot does is left out.
CONTENDER = """
import sys
from pathlib import Path
from pipeline.config import build, read_config
from pipeline.errors import LockedError
from pipeline.executor import InProcessExecutor
from pipeline.run_config import RunConfig
import pipeline.retrain.run as run

def work(slot, time):
    print("trains", flush=True)
    sys.stdin.readline()

run._Slot.run = work
name, settings = sys.argv[1:]
for line in sys.stdin:
    folder = Path(line.strip())
    changes = {"workspace": str(folder / name), "registry": {"location": str(folder / "registry")}}
    config = build(RunConfig, read_config(settings) | changes, "a race")
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        run.retrain(config, InProcessExecutor(), lambda stage: None, until=config.retrain.first_slot)
        print("done", flush=True)
    except LockedError as error:
        print(f"{error.exit_code} {error}", flush=True)
"""

# Retrains with a clock that is ahead, and kills itself where a stage would rename something to a name.
VICTIM = """
import os, signal, sys
from datetime import timedelta
from pipeline.config import build, read_config
from pipeline.executor import InProcessExecutor
from pipeline.registry.root import utc_now
from pipeline.run_config import RunConfig
import pipeline.retrain.run as run

settings, minutes, stage, name = sys.argv[1:]
config = build(RunConfig, read_config(settings), "a victim")
replace, run_stage, at_work = os.replace, run.run_stage, []

def watched(source, target):
    if at_work[-1:] == [stage] and os.path.basename(target).startswith(name):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

def noted(slot, stage):
    at_work.append(stage)
    return run_stage(slot, stage)

os.replace = watched
run.run_stage = noted
clock = lambda: utc_now() + timedelta(minutes=int(minutes))
(result,) = run.retrain(config, InProcessExecutor(), lambda stage: None, until=config.retrain.first_slot, clock=clock)
print(result.run_id, result.version, result.is_promoted)
"""
# A stage, and what it is about to rename: on the way, as its last work, and when it is to be marked as complete.
KILLS = (
    ("preprocess", "item_id.arrow"),
    ("train", "step-"),
    ("publish", "model.safetensors"),
    ("publish", "state.json"),
    ("promote", "champion.json"),
    ("promote", "state.json"),
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a retraining on a small log, as a file."""
    folder = tmp_path_factory.mktemp("retrain")
    simulate(folder / "log", 6000, seed=5, num_days=4, num_users=60, num_items=110)
    names = ["user_id", "item_id", "device", "hour"]
    content = {
        "workspace": str(folder / "work"),
        "inputs": str(folder / "log"),
        "schema": {
            "keys": {"user": "user_id", "request": "request_id", "time": "timestamp"},
            "features": [{"name": name, "kind": "categorical"} for name in names],
            "tasks": [{"name": "click", "kind": "binary", "label": "click"}],
        },
        "preprocess": {"log": {"path": "log"}, "split": {"kind": "order"}},
        "model": {"front_end": {"embedding_dim": 4}, "body": {"kind": "shared_bottom", "widths": [8]}},
        "train": {"device": "cpu", "max_epochs": 4, "global_batch_size": 128},
        "evaluate": {"slices": [], "num_replicates": 100, "importance_rows": 0},
        "registry": {"location": str(folder / "registry"), "lease_seconds": 60},
        "retrain": {
            "first_slot": SLOT,
            "train_slots": 2,
            "gate": {"default": {"calibration": {"min": 0.3, "max": 3}}},
        },
    }
    dump(build(RunConfig, content, "the tests"), folder)
    return folder / RESOLVED_NAME


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def tell(process: subprocess.Popen[str], line: object = "") -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_of_two_retrainings_at_once_one_trains_and_the_other_exits_75_and_says_who_does(
    settings: Path, tmp_path: Path, fault_seed: int
) -> None:
    runs = [start(CONTENDER, name, str(settings)) for name in ("first", "second")]
    for race in range(NUM_RACES):
        for run in runs:
            tell(run, tmp_path / str(race))
        assert [hear(run) for run in runs] == ["ready", "ready"]
        for run in runs:
            tell(run)
        heard = [hear(run) for run in runs]
        assert heard.count("trains") == 1, heard
        winner, said = runs[heard.index("trains")], heard[1 - heard.index("trains")]
        assert said.startswith("75 ")
        assert f"is locked by host {os.uname().nodename}, pid {winner.pid}, run retrain, since 20" in said
        tell(winner)
        assert hear(winner) == "done"
    for run in runs:
        run.communicate()


@pytest.mark.exhaustive
def test_a_retraining_killed_again_and_again_is_one_run_with_the_model_of_an_undisturbed_one(
    settings: Path, tmp_path: Path
) -> None:
    places = [tmp_path / name for name in ("killed", "undisturbed")]
    for place in places:
        content = read_config(settings) | {"workspace": str(place / "work")}
        content["registry"] |= {"location": str(place / "registry")}
        dump(build(RunConfig, content, "the tests"), place)
    killed = places[0]
    folder = killed / "work" / "retrain" / SLOT
    run_ids = set()
    registry = Registry.open(str(killed / "registry"))
    for count, (stage, name) in enumerate(KILLS):
        # The lease of the one before has run out.
        victim = start(VICTIM, str(killed / RESOLVED_NAME), str(2 * count), stage, name)
        _, error = victim.communicate()
        assert victim.returncode == -signal.SIGKILL, f"{stage} {name}: {error}"
        state = read_state(folder)
        assert state is not None
        assert stage not in state.complete
        run_ids.add(state.run_id)
        assert (registry.champion() is None) == ((stage, name) != KILLS[-1])
    told = []
    for place in places:
        survivor = start(VICTIM, str(place / RESOLVED_NAME), str(2 * len(KILLS)), "none", "")
        output, error = survivor.communicate()
        assert survivor.returncode == 0, error
        told.append(output.splitlines()[-1].split())
    assert run_ids == {told[0][0]}
    assert len(registry.numbers()) == 1
    digests = []
    for place, (_, version, is_promoted) in zip(places, told, strict=True):
        registry = Registry.open(str(place / "registry"))
        champion = registry.champion()
        assert champion is not None
        assert (str(champion.version), is_promoted) == (version, "True")
        files = registry.fetch(champion.version, tmp_path)
        (checkpoint,) = (files / CHECKPOINT_FOLDER).iterdir()
        digests.append(digest_of(checkpoint))
    assert digests[0] == digests[1]
