"""The virtual environments that peers run in: made once, each from a lock of infra/locks, with pip."""

import hashlib
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from pipeline.doctor import LOCKS
from pipeline.errors import SetupError

STAMP_NAME = "lock.sha256"
BORROWED_NAME = "borrowed.pth"


def make_environment(folder: Path, lock_name: str, *, borrows: bool = False) -> Path:
    """The interpreter of an environment that holds exactly the pins of a lock; minutes, when it is not there yet.

    One that `borrows` finds in the packages of this interpreter what it has not itself: the same torch, not another.

    Raises:
        SetupError: there is no such lock beside the package, or pip failed.
    """
    lock = LOCKS / f"{lock_name}.lock"
    if not lock.is_file():
        raise SetupError(f"{lock} is not there", "run benchmarks with peers from a checkout")
    python, stamp = folder / "bin" / "python", folder / STAMP_NAME
    borrowed = sysconfig.get_path("purelib") if borrows else ""
    digest = hashlib.sha256(lock.read_bytes() + borrowed.encode()).hexdigest()
    if python.exists() and stamp.is_file() and stamp.read_text() == digest:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(folder))
    _run(str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--requirement", str(lock))
    if borrows:
        own = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
        (own / BORROWED_NAME).write_text(f"{borrowed}\n")
    stamp.write_text(digest)
    return python


def locked_versions(lock_name: str) -> dict[str, str]:
    """The pins of a lock, by package."""
    return dict(line.split("==", 1) for line in (LOCKS / f"{lock_name}.lock").read_text().split())


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise SetupError(f"{' '.join(command)} failed: {last}", "mend what it names and run the same command again")
