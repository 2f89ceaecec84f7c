"""Two runs in one workspace: one works, the other says who does; a killed one leaves no lock."""

import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import RESOLVED_NAME, build, dump
from pipeline.errors import LockedError, UsageError
from pipeline.lock import locked
from pipeline.run_config import RunConfig

# Each says that it is ready, starts when it is told to, and holds the lock until it is told to end.
CONTENDER = """
import sys
from pathlib import Path
from pipeline.errors import LockedError
from pipeline.lock import locked
print("ready", flush=True)
sys.stdin.readline()
try:
    with locked(Path(sys.argv[1]), "train"):
        print("works", flush=True)
        sys.stdin.readline()
except LockedError as error:
    print(f"{error}", flush=True)
    sys.exit(error.exit_code)
"""
NUM_RACES = 5


def contend(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CONTENDER, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_of_two_runs_at_once_one_works_and_the_other_says_who_does(tmp_path: Path, fault_seed: int) -> None:
    for race in range(NUM_RACES):
        runs = [contend(tmp_path / str(race)) for _ in range(2)]
        assert [hear(run) for run in runs] == ["ready", "ready"]
        for run in runs:
            tell(run)
        heard = [hear(run) for run in runs]
        assert heard.count("works") == 1, heard
        winner, loser = (runs[heard.index("works")], runs[1 - heard.index("works")])
        assert loser.wait() == 75
        told = heard[1 - heard.index("works")]
        assert "is locked by" in told
        assert f"pid {winner.pid}, run train, since 20" in told or "another process" in told
        tell(winner)
        assert winner.wait() == 0
        for run in runs:
            run.communicate()


def test_a_killed_run_leaves_no_lock(tmp_path: Path) -> None:
    run = contend(tmp_path)
    hear(run)
    tell(run)
    assert hear(run) == "works"
    with pytest.raises(LockedError, match=rf"{tmp_path} is locked by host \S+, pid {run.pid}, run train, since "):
        locked(tmp_path, "score").__enter__()
    run.send_signal(signal.SIGKILL)
    run.communicate()
    with locked(tmp_path, "score"):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file/work cannot be written"):
        locked(tmp_path / "file" / "work", "run").__enter__()


@pytest.mark.parametrize("verb", ["preprocess", "train", "evaluate", "score", "run"])
def test_every_verb_that_writes_holds_the_workspace(verb: str, demo_settings: dict[str, Any], tmp_path: Path) -> None:
    config = build(RunConfig, {**demo_settings, "workspace": str(tmp_path / "work")}, "the tests")
    dump(config, config.workspace_dir)
    main = import_module(f"jobs.{verb}").main
    with locked(config.workspace_dir, "retrain"), pytest.raises(LockedError) as raised:
        main(str(config.workspace_dir / RESOLVED_NAME))
    assert raised.value.exit_code == 75
    assert not (config.workspace_dir / "dataset").exists()
