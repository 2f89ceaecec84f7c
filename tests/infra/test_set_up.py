"""Checks when the set-up does its work, that an interrupted one starts again, and what it says when something fails."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "infra"))  # scripts, not a package
torch_build: Any = importlib.import_module("torch_build")
set_up: Any = importlib.import_module("set_up")


def test_the_locks_differ_only_in_what_cuda_needs() -> None:
    cpu, cuda = set(set_up.read_lock("cpu")), set(set_up.read_lock("cuda"))
    assert {torch_build.name_of(pin) for pin in cpu - cuda} == {"fbgemm-gpu-cpu"}
    extra = {torch_build.name_of(pin) for pin in cuda - cpu}
    assert all(name.startswith(("nvidia-", "cuda-")) or name in {"fbgemm-gpu", "triton"} for name in extra)
    assert torch_build.version_in(sorted(cpu), "torch") == "2.13.0"


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A .venv that looks finished."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    set_up.stamp_path(tmp_path).write_text(json.dumps(set_up.wanted_stamp(tmp_path, "cpu")))
    return tmp_path


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the set-up would do, in order, instead of doing it."""
    done: list[str] = []

    def create_venv(path: Path) -> None:
        assert not set_up.stamp_path(path).exists(), "the stamp must go before anything else does"
        done.append("venv")

    monkeypatch.setattr(set_up, "create_venv", create_venv)
    monkeypatch.setattr(set_up, "run_pip", lambda path, purpose, arguments: done.append(purpose))
    monkeypatch.setattr(set_up, "install_packages", lambda path, accelerator: done.append("packages"))
    monkeypatch.setattr(set_up, "check_works", lambda path: done.append("check"))
    return done


ALL = ["venv", "installing pip", "packages", "check", "installing gatehouse"]


def test_a_finished_environment_is_left_alone(venv: Path, work: list[str]) -> None:
    set_up.set_up(venv, "cpu")
    assert work == []


def test_another_accelerator_is_a_new_environment_and_then_a_finished_one(venv: Path, work: list[str]) -> None:
    set_up.set_up(venv, "cuda")
    assert work == ALL
    set_up.set_up(venv, "cuda")
    assert work == ALL


@pytest.mark.parametrize("key", ["venv", "lock"])
def test_a_moved_folder_or_a_changed_lock_is_a_new_environment(venv: Path, work: list[str], key: str) -> None:
    stamp = set_up.read_stamp(venv) | {key: "another"}
    set_up.stamp_path(venv).write_text(json.dumps(stamp))
    set_up.set_up(venv, "cpu")
    assert work == ALL


def test_changed_project_metadata_reinstalls_only_the_project(venv: Path, work: list[str]) -> None:
    set_up.stamp_path(venv).write_text(json.dumps(set_up.read_stamp(venv) | {"project": "another"}))
    set_up.set_up(venv, "cpu")
    assert work == ["installing gatehouse"]


@pytest.mark.parametrize("damage", ["no stamp", "half a stamp", "no python"])
def test_an_unfinished_environment_is_made_anew(venv: Path, work: list[str], damage: str) -> None:
    if damage == "no python":
        (venv / "bin" / "python").unlink()
    elif damage == "no stamp":
        set_up.stamp_path(venv).unlink()
    else:
        set_up.stamp_path(venv).write_text('{"venv": ')
    set_up.set_up(venv, "cpu")
    assert work == ALL


@pytest.mark.parametrize("step", ["create_venv", "install_packages", "check_works"])
def test_an_interrupted_set_up_leaves_no_stamp(
    venv: Path, work: list[str], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(set_up, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        set_up.set_up(venv, "cuda")
    assert set_up.read_stamp(venv) == {}


# --- what it says


def fake_python(venv: Path, script: str) -> None:
    (venv / "bin" / "python").write_text(f"#!/bin/sh\n{script}\n")
    (venv / "bin" / "python").chmod(0o755)


def test_a_failing_pip_shows_its_errors_and_names_the_log(venv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_python(venv, "echo Collecting x; echo 'ERROR: no x' >&2; echo a hint; exit 1")
    with pytest.raises(torch_build.SetUpError, match=r"installing x failed.*set-up\.log"):
        set_up.run_pip(venv, "installing x", ["x"])
    assert capsys.readouterr().err == "ERROR: no x\n"


def test_a_long_install_says_that_it_lives(
    venv: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_up, "HEARTBEAT_SECONDS", 0.2)
    fake_python(venv, "echo Downloading torch; sleep 1")
    set_up.run_pip(venv, "installing x", ["x"])
    assert "... installing x, 0 s so far: Downloading torch" in capsys.readouterr().out


def test_packages_that_do_not_work_together_are_one_line(venv: Path) -> None:
    fake_python(venv, "printf 'Traceback:\\n  x\\nOSError: libcudart.so.13: not found\\n' >&2; exit 1")
    with pytest.raises(torch_build.SetUpError, match=r"do not work together: OSError: libcudart\.so\.13: not found$"):
        set_up.check_works(venv)


def test_the_check_accepts_this_environment(capsys: pytest.CaptureFixture[str]) -> None:
    set_up.check_works(Path(sys.prefix))
    assert "torchrec and fbgemm" in capsys.readouterr().out


def test_cpu_wheels_that_the_index_does_not_give_are_replaced_by_the_cuda_build(
    venv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse_the_index(path: Path, purpose: str, arguments: list[str]) -> None:
        if "--index-url" in arguments:
            raise torch_build.SetUpError("no wheel")

    monkeypatch.setattr(set_up, "available_torch", lambda path: ["2.13.0"])
    monkeypatch.setattr(set_up, "answers", lambda url: True)
    monkeypatch.setattr(set_up, "run_pip", refuse_the_index)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    set_up.install_packages(venv, "cpu")
    assert "answers but gives no wheel" in capsys.readouterr().out
    pins = (venv / "requirements.txt").read_text().split()
    assert any(pin.startswith("nvidia-nccl") for pin in pins)
    assert "fbgemm-gpu==1.8.0" not in pins


def test_make_without_a_fitting_python_says_how_to_name_one(tmp_path: Path) -> None:
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3").chmod(0o755)
    make = shutil.which("make") or pytest.skip("make is not installed")
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHON", "MAKEFLAGS"}}
    done = subprocess.run(
        [make, "-C", str(tmp_path), "-f", str(ROOT / "Makefile"), "set-up"],
        env=environment | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Gatehouse needs Python 3.11" in done.stderr
    assert "make set-up PYTHON=/path/to/python3.11" in done.stderr
