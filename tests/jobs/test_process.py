"""What a process sets for itself before anything heavy is loaded, and what its workers get of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.process import MALLOC_OPTIONS, SPINS
from pipeline.train.ray_group import process_settings

SHOW = "import json, os; from jobs.process import set_up_process; set_up_process(); print(json.dumps(dict(os.environ)))"


def settings_after_set_up(**given: str) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "MALLOC_"))}
    run = subprocess.run(
        [sys.executable, "-c", SHOW],
        env={**others, **given},
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    found: dict[str, str] = json.loads(run.stdout)
    return found


def test_threads_spin_a_moment_and_freed_memory_is_kept() -> None:
    found = settings_after_set_up()
    assert found["GOMP_SPINCOUNT"] == str(SPINS)
    assert {name: found[name] for name in MALLOC_OPTIONS} == {
        name: str(value) for name, (_, value) in MALLOC_OPTIONS.items()
    }


def test_what_the_environment_says_stays() -> None:
    found = settings_after_set_up(OMP_WAIT_POLICY="ACTIVE", MALLOC_ARENA_MAX="7")
    assert "GOMP_SPINCOUNT" not in found
    assert (found["OMP_WAIT_POLICY"], found["MALLOC_ARENA_MAX"]) == ("ACTIVE", "7")
    assert settings_after_set_up(GOMP_SPINCOUNT="3")["GOMP_SPINCOUNT"] == "3"


def test_workers_of_a_training_get_the_settings_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("OMP_", "GOMP_", "MALLOC_"))]:
        monkeypatch.delenv(name)
    wanted = {"GOMP_SPINCOUNT": "1000", "OMP_WAIT_POLICY": "PASSIVE", "MALLOC_ARENA_MAX": "1"}
    for name, value in {**wanted, "OMP_NUM_THREADS": "2", "SECRET": "hidden"}.items():
        monkeypatch.setenv(name, value)
    assert process_settings() == wanted
