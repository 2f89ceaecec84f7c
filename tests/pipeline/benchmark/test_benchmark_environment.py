"""The peers' environment is made from a lock, once, and only a whole one counts."""

import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from pipeline.benchmark import environment
from pipeline.benchmark.environment import locked_versions, make_environment
from pipeline.benchmark.preprocess import PEERS, PEERS_LOCK
from pipeline.benchmark.score import PEERS as SCORE_PEERS
from pipeline.errors import SetupError

SITE_PACKAGES = sysconfig.get_path("purelib", vars={"base": "."})


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: Any) -> list[tuple[str, ...]]:
    """The commands that are run, of which one makes an interpreter; the lock is a small one."""
    run: list[tuple[str, ...]] = []

    def make(*command: str) -> None:
        run.append(command)
        if "venv" in command:
            (Path(command[-1]) / "bin").mkdir(parents=True)
            (Path(command[-1]) / SITE_PACKAGES).mkdir(parents=True)
            (Path(command[-1]) / "bin" / "python").touch()

    monkeypatch.setattr(environment, "LOCKS", tmp_path)
    monkeypatch.setattr(environment, "_run", make)
    (tmp_path / "small.lock").write_text("one==1.0\ntwo==2.0\n")
    return run


def test_an_environment_is_made_once_for_a_lock(tmp_path: Path, commands: list[tuple[str, ...]]) -> None:
    folder = tmp_path / "environment"
    assert make_environment(folder, "small") == folder / "bin" / "python"
    assert [command[2] for command in commands] == ["venv", "pip"]
    make_environment(folder, "small")
    assert len(commands) == 2
    (tmp_path / "small.lock").write_text("one==1.1\n")
    make_environment(folder, "small")
    assert len(commands) == 4
    assert locked_versions("small") == {"one": "1.1"}


def test_an_environment_that_borrows_finds_the_packages_of_this_one(
    tmp_path: Path, commands: list[tuple[str, ...]]
) -> None:
    folder = tmp_path / "environment"
    make_environment(folder, "small", borrows=True)
    (path,) = (folder / SITE_PACKAGES).glob("*.pth")
    assert (Path(path.read_text().strip()) / "torch").is_dir()
    # As an environment of the same lock alone it is another one.
    make_environment(folder, "small")
    assert len(commands) == 4
    assert not path.exists()


def test_an_environment_that_was_not_finished_is_made_again(
    tmp_path: Path, commands: list[tuple[str, ...]], monkeypatch: Any
) -> None:
    make = environment._run

    def fail_to_install(*command: str) -> None:
        make(*command)
        if "pip" in command:
            raise SetupError("no network", "connect")

    monkeypatch.setattr(environment, "_run", fail_to_install)
    with pytest.raises(SetupError):
        make_environment(tmp_path / "environment", "small")
    monkeypatch.setattr(environment, "_run", make)
    make_environment(tmp_path / "environment", "small")
    assert len(commands) == 4


def test_a_command_that_fails_is_named_with_its_last_words() -> None:
    with pytest.raises(SetupError, match="no such package"):
        environment._run(sys.executable, "-c", "import sys; sys.exit('no such package')")


def test_without_a_lock_there_is_no_environment(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"unknown.lock is not there"):
        make_environment(tmp_path, "unknown")


def test_the_lock_has_every_peer() -> None:
    assert set(PEERS) <= set(locked_versions(PEERS_LOCK))
    for name, package in SCORE_PEERS.items():
        pins = locked_versions(name)
        assert package in pins
        assert "torch" not in pins
