"""Checks that a wrong installation is named, with the command that mends it, before anything is imported."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import doctor
from pipeline.doctor import Check, check_triple
from pipeline.errors import SetupError

CPU = {"torch": "2.13.0+cpu", "torchrec": "1.8.0", "fbgemm-gpu-cpu": "1.8.0"}
CUDA = {"torch": "2.13.0+cu130", "torchrec": "1.8.0", "fbgemm-gpu": "1.8.0"}
REBUILD = "rm -rf .venv && make set-up ACCELERATOR=cpu"


def faults(installed: dict[str, str]) -> list[Check]:
    return [check for check in check_triple(installed) if not check.ok]


def install_versions(monkeypatch: pytest.MonkeyPatch, installed: dict[str, str]) -> None:
    monkeypatch.setattr(doctor, "installed_versions", lambda names: installed)


@pytest.mark.parametrize("installed", [CPU, CUDA, CPU | {"torch": "2.13.0"}], ids=["cpu", "cuda", "no suffix"])
def test_the_triple_is_accepted_whatever_the_build_of_torch(installed: dict[str, str]) -> None:
    assert faults(installed) == []


@pytest.mark.parametrize(
    ("installed", "name", "found", "fix"),
    [
        (CPU | {"torch": "2.12.1+cpu"}, "torch", "2.12.1+cpu is installed, 2.13.0 is needed", REBUILD),
        (CPU | {"torch": "2.13.0.post1"}, "torch", "2.13.0.post1 is installed", REBUILD),
        (CPU | {"torchrec": "1.7.0"}, "torchrec", "1.7.0 is installed", "--no-deps -r infra/locks/cpu.lock"),
        (CUDA | {"torchrec": "1.7.0"}, "torchrec", "1.7.0 is installed", "--no-deps -r infra/locks/cuda.lock"),
        (CUDA | {"fbgemm-gpu": "1.7.0"}, "fbgemm-gpu", "1.7.0 is installed", "--no-deps -r infra/locks/cuda.lock"),
        (CPU | CUDA | {"torch": "2.13.0"}, "fbgemm", "both fbgemm-gpu-cpu and fbgemm-gpu are installed", REBUILD),
    ],
)
def test_one_wrong_library_is_named_with_the_command_that_mends_it(
    installed: dict[str, str], name: str, found: str, fix: str
) -> None:
    (fault,) = faults(installed)
    assert fault.name == name
    assert found in fault.found
    assert fault.fix.endswith(fix)


@pytest.mark.parametrize("missing", sorted(CPU))
def test_a_missing_library_is_named(missing: str) -> None:
    (fault,) = faults({name: version for name, version in CPU.items() if name != missing})
    assert fault.name == missing
    assert "not installed" in fault.found


def test_several_faults_are_one_message_with_the_fix_that_mends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    install_versions(monkeypatch, CPU | {"torchrec": "1.7.0", "torch": "2.15.0"})
    with pytest.raises(SetupError) as caught:
        doctor.require_setup()
    assert "torch: 2.15.0" in caught.value.what
    assert "torchrec: 1.7.0" in caught.value.what
    assert caught.value.fix == f"run: {REBUILD}"


def test_the_install_command_names_the_running_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    assert doctor.install_command("cpu") == ".venv/bin/python -m pip install --no-deps -r infra/locks/cpu.lock"
    monkeypatch.setattr(sys, "executable", "/opt/python/bin/python")
    assert doctor.install_command("cuda").startswith("/opt/python/bin/python -m pip install")


def test_this_environment_is_accepted_in_milliseconds_without_importing_torch() -> None:
    doctor.require_setup()  # the first reading of the package folders may come from a cold disk
    best_seconds = min(_seconds_of_require_setup() for _ in range(5))
    assert best_seconds < 0.05
    code = "import sys, pipeline.doctor; pipeline.doctor.require_setup(); print({'torch', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def _seconds_of_require_setup() -> float:
    started = time.perf_counter()
    doctor.require_setup()
    return time.perf_counter() - started


def test_the_whole_list_accepts_this_environment() -> None:
    machine = {"cores", "memory", "free disk", "/dev/shm", "GPUs"}
    checks = doctor.check_setup()
    assert [check for check in checks if not check.ok and check.name not in machine] == []
    names = [check.name for check in checks]
    assert len(names) == len(set(names))
    assert {"Python", "torch", "pyarrow", "ray", "pydantic", "torch runs", "fbgemm runs"} <= set(names)
    assert all(check.found for check in checks)
    assert all(bool(check.fix) != check.ok for check in checks)


def test_a_library_that_does_not_import_is_a_fault_and_not_a_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken_for_doctor.py").write_text("raise OSError('undefined symbol: _ZN3c10\\nsecond line')")
    monkeypatch.syspath_prepend(str(tmp_path))
    check = doctor._check_library("broken_for_doctor", "cpu")
    assert not check.ok
    assert check.found == "OSError: undefined symbol: _ZN3c10"


def test_a_missing_driver_is_named_instead_of_the_library_that_needs_it() -> None:
    def load_fbgemm() -> str:
        try:
            raise OSError("libnvidia-ml.so.1: cannot open shared object file")
        except OSError as error:
            raise OSError("Could not load this library: fbgemm_gpu_py.so") from error

    check = doctor._attempt("fbgemm runs", load_fbgemm, REBUILD)
    assert check.found.startswith("OSError: libnvidia-ml.so.1")
    assert check.fix == doctor.DRIVER_FIX


def test_a_library_that_differs_from_the_lock_is_a_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpu.lock").write_text("pyarrow==1.0.0\n")
    monkeypatch.setattr(doctor, "LOCKS", tmp_path)
    assert "the lock has 1.0.0" in doctor._check_library("pyarrow", "cpu").found
    assert doctor._check_library("pyarrow", "cuda").ok  # no lock beside the package: any version is taken


def test_packages_and_gpus_that_do_not_match_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert doctor._check_gpus("cpu").ok
    assert not doctor._check_gpus("cuda").ok
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "H200")
    assert doctor._check_gpus("cuda").found == "2 seen: H200"
    assert doctor._check_gpus("cpu").fix == "rm -rf .venv && make set-up ACCELERATOR=cuda"


def test_a_small_machine_is_a_fault_that_says_how_much_is_needed() -> None:
    check = doctor._check_size("/dev/shm", 64 << 20, 1 << 30, "docker run --shm-size=2g")
    assert (check.ok, check.found) == (False, "0.1 GiB, 1 are needed")


def test_memory_is_that_of_the_container_where_it_is_less(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    machine = doctor.memory_bytes(limit)
    limit.write_text("max\n")
    assert doctor.memory_bytes(limit) == machine
    limit.write_text("1073741824\n")
    assert doctor.memory_bytes(limit) == 1 << 30
