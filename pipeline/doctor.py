"""Finds, before any work, an installation or a machine that Gatehouse cannot run on, and says what mends it.

`require_setup` is the part that a job starts with: it reads package metadata only, in milliseconds. `check_setup` is
the whole list for `gatehouse doctor`: it imports torch, runs an operation of each library, and looks at the machine.
"""

import importlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from pipeline.errors import SetupError

PYTHON = (3, 11)
# Compiled against each other: fbgemm's operators load into one torch only, and torchrec calls them by signature.
TRIPLE = {"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm-gpu-cpu": "1.8.0", "fbgemm-gpu": "1.8.0"}
FBGEMM_CPU, FBGEMM_CUDA = "fbgemm-gpu-cpu", "fbgemm-gpu"
LIBRARIES = ("pyarrow", "pydantic", "ray")
# The CUDA fbgemm links against a library of the driver, so that without a GPU it does not import.
DRIVER_LIBRARY = "libnvidia-ml"
DRIVER_FIX = "see what nvidia-smi says of the driver; for the CPU: rm -rf .venv && make set-up ACCELERATOR=cpu"
LOCKS = Path(__file__).resolve().parent.parent / "infra" / "locks"

GIB = 1 << 30
MIN_MEMORY_BYTES = 4 * GIB  # a Ray cluster takes 1 to 2, each training process about 1
MIN_SHM_BYTES = GIB  # Ray's object store; containers are given 64 MB unless told otherwise
MIN_DISK_BYTES = 5 * GIB


@dataclass(frozen=True)
class Check:
    """One line of the doctor's list; `fix` is the command or the change that mends it, empty where all is well."""

    name: str
    ok: bool
    found: str
    fix: str = ""


def installed_versions(names: tuple[str, ...]) -> dict[str, str]:
    """The installed versions by distribution name; one that is not installed is left out."""
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def code_revision() -> str | None:
    """The commit of this checkout, marked if files were changed; None outside one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def require_setup() -> None:
    """Raises a SetupError when torch, torchrec and fbgemm are not the three that belong together."""
    problems = [check for check in check_triple(installed_versions(tuple(TRIPLE))) if not check.ok]
    if problems:
        found = "; ".join(f"{check.name}: {check.found}" for check in problems)
        # A rebuild also mends what an install would, so one command is enough.
        fixes = sorted({check.fix for check in problems}, key=lambda fix: not fix.startswith("rm"))
        raise SetupError(f"the installed packages do not fit together: {found}", f"run: {fixes[0]}")


def check_triple(installed: Mapping[str, str]) -> list[Check]:
    """Checks the three libraries, given installed versions by distribution name."""
    both = FBGEMM_CPU in installed and FBGEMM_CUDA in installed
    fbgemm = FBGEMM_CUDA if FBGEMM_CUDA in installed else FBGEMM_CPU
    accelerator = accelerator_of(installed)
    checks = [
        _check_version("torch", installed, rebuild_command(accelerator)),
        _check_version("torchrec", installed, install_command(accelerator)),
    ]
    if both:
        found = f"both {FBGEMM_CPU} and {FBGEMM_CUDA} are installed, and they own the same folder"
        return [*checks, Check("fbgemm", False, found, rebuild_command(accelerator))]
    return [*checks, _check_version(fbgemm, installed, install_command(accelerator))]


def _check_version(name: str, installed: Mapping[str, str], fix: str) -> Check:
    needed, found = TRIPLE[name], installed.get(name)
    if found is None:
        return Check(name, False, f"not installed, {needed} is needed", fix)
    if found.split("+")[0] != needed:  # +cpu and +cu130 are builds of one version
        return Check(name, False, f"{found} is installed, {needed} is needed", fix)
    return Check(name, True, found)


def accelerator_of(installed: Mapping[str, str]) -> str:
    """Which lock this environment was made from: only the CUDA one has fbgemm-gpu."""
    return "cuda" if FBGEMM_CUDA in installed and FBGEMM_CPU not in installed else "cpu"


def install_command(accelerator: str) -> str:
    python = Path(sys.executable)
    shown = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    return f"{shown} -m pip install --no-deps -r infra/locks/{accelerator}.lock"


def rebuild_command(accelerator: str) -> str:
    """The command for what pip cannot mend in place: a second fbgemm, or a torch whose right build is to be chosen."""
    return f"rm -rf .venv && make set-up ACCELERATOR={accelerator}"


# --- the whole list ------------------------------------------------------------------------------------------------


def check_setup() -> list[Check]:
    """Every check, ordered so that a failure explains the next one; some seconds, for torch and Ray are imported."""
    installed = installed_versions(tuple(TRIPLE))
    accelerator = accelerator_of(installed)
    checks = [_check_python(), *check_triple(installed)]
    checks += [_check_library(name, accelerator) for name in LIBRARIES]
    rebuild = rebuild_command(accelerator)
    checks += [
        _attempt("torch runs", _run_torch, rebuild),
        _attempt("fbgemm runs", _run_fbgemm, rebuild),
        _attempt("torchrec imports", _import_torchrec, rebuild),
        _check_gpus(accelerator),
        *_check_machine(),
    ]
    return checks


def _check_python() -> Check:
    fix = "install Python 3.11, then rm -rf .venv && make set-up"
    ok = sys.version_info[:2] == PYTHON
    return Check("Python", ok, platform.python_version(), "" if ok else fix)


def _check_library(name: str, accelerator: str) -> Check:
    fix = install_command(accelerator)
    try:
        importlib.import_module(name)
        found = metadata.version(name)
    except Exception as error:  # a broken binary can raise anything on import
        return Check(name, False, _first_line(error), fix)
    needed = _locked_version(name, accelerator)
    if needed and found != needed:
        return Check(name, False, f"{found} is installed, the lock has {needed}", fix)
    return Check(name, True, found)


def _locked_version(name: str, accelerator: str) -> str | None:
    """The version in the lock; None where the locks are not beside the package, as in a wheel."""
    lock = LOCKS / f"{accelerator}.lock"
    pins = dict(line.split("==", 1) for line in lock.read_text().split()) if lock.exists() else {}
    return pins.get(name)


def _attempt(name: str, action: Callable[[], str], fix: str) -> Check:
    try:
        return Check(name, True, action())
    except Exception as error:  # a mismatched build raises anything from ImportError to AttributeError
        found = _first_line(error)
        return Check(name, False, found, DRIVER_FIX if DRIVER_LIBRARY in found else fix)


def _first_line(error: BaseException) -> str:
    while error.__cause__:  # "could not load" says less than what it was raised from
        error = error.__cause__
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _run_torch() -> str:
    import torch

    if float((torch.ones(2, 2) @ torch.ones(2, 2)).sum()) != 8.0:
        raise ArithmeticError("a product of two matrices of ones is wrong")
    return f"torch {torch.__version__}, a matrix product is right"


def _import_torchrec() -> str:
    return f"torchrec {importlib.import_module('torchrec').__version__}"


def _run_fbgemm() -> str:
    import torch

    importlib.import_module("fbgemm_gpu")  # registers the operators under torch.ops.fbgemm
    offsets = torch.ops.fbgemm.asynchronous_complete_cumsum(torch.tensor([1, 2, 3]))
    if offsets.tolist() != [0, 1, 3, 6]:
        raise ArithmeticError(f"the offsets of lengths 1, 2, 3 are given as {offsets.tolist()}")
    return "its operators load, offsets of lengths are right"


def _check_gpus(accelerator: str) -> Check:
    try:
        import torch

        num_gpus = torch.cuda.device_count()
        names = sorted({torch.cuda.get_device_name(index) for index in range(num_gpus)})
    except Exception as error:
        return Check("GPUs", False, _first_line(error), rebuild_command(accelerator))
    if num_gpus == 0 and accelerator == "cuda":
        return Check("GPUs", False, "none seen by the CUDA packages", DRIVER_FIX)
    if num_gpus and accelerator == "cpu":  # a CUDA torch with fbgemm's CPU operators: tables cannot go on the GPU
        return Check("GPUs", False, f"{num_gpus} seen, not used by the CPU packages", rebuild_command("cuda"))
    return Check("GPUs", True, f"{num_gpus} seen: {', '.join(names)}" if names else "none seen")


def _check_machine() -> list[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shm = Path("/dev/shm")
    checks = [
        Check("cores", True, str(cores)),
        _check_size("memory", memory_bytes(), MIN_MEMORY_BYTES, "give the machine or the container more memory"),
        _check_size("free disk", shutil.disk_usage(Path.cwd()).free, MIN_DISK_BYTES, "free some disk here"),
    ]
    if shm.is_dir():
        size_bytes = shutil.disk_usage(shm).total
        checks.append(_check_size("/dev/shm", size_bytes, MIN_SHM_BYTES, "in a container: docker run --shm-size=2g"))
    return checks


def _check_size(name: str, size_bytes: int, least_bytes: int, fix: str) -> Check:
    ok = size_bytes >= least_bytes
    found = f"{size_bytes / GIB:.1f} GiB"
    return Check(name, True, found) if ok else Check(name, False, f"{found}, {least_bytes / GIB:.0f} are needed", fix)


def memory_bytes(cgroup: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Memory of the machine, or of the container where that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(cgroup.read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return machine
