"""Where registries are that tests disturb, and scripts in processes of their own that disturb them."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from s3_store import Store

from pipeline.registry.registry import Registry

ROOT = Path(__file__).parents[2]


class Process:
    """A script that is told lines and heard."""

    def __init__(self, script: str, *arguments: str) -> None:
        command = [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r})\n{script}",
            *arguments,
        ]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, line: str = "") -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.communicate()


def place_for_registry(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where a test's registry shall be: on the disk or in the store, as the parameter of the fixture that asks says."""
    if request.param == "disk":
        return str(tmp_path / "registry")
    store: Store = request.getfixturevalue("store")
    lock, answer = threading.Lock(), store._moto

    def answer_alone(*arguments: Any) -> Any:
        """A store compares and writes at once; moto does so only if it is asked one thing at a time."""
        with lock:
            return answer(*arguments)

    monkeypatch.setattr(store, "_moto", answer_alone)
    return f"{request.getfixturevalue('bucket')}/models"


def champion_of(registry: Registry) -> int:
    champion = registry.champion()
    assert champion
    return champion.version
