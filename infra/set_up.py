"""Makes the virtual environment .venv from a lock: what `make set-up` runs, and `make demo` and `make test` first.

Standard library only, for it runs before anything is installed. A stamp inside .venv, written last, says what it holds:
while the stamp agrees with the lock there is nothing to do, and an interrupted set-up, which has none, starts again.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from torch_build import (
    CPU_INDEX,
    TORCH,
    SetUpError,
    TorchChoice,
    answers,
    choose_torch,
    cuda_build_sentence,
    pins_for,
    preferred_version,
    version_in,
)

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "infra" / "locks"
PYTHON = (3, 11)
PIP = "pip==26.3"
HEARTBEAT_SECONDS = 30.0
CHECK = """
import torch
assert float((torch.ones(2, 2) @ torch.ones(2, 2)).sum()) == 8.0
try:
    import fbgemm_gpu, torchrec
    print(f"torch {torch.__version__}, torchrec and fbgemm work; GPUs seen: {torch.cuda.device_count()}")
except OSError as error:
    # The CUDA fbgemm links against the driver, which a machine that only builds an image does not have.
    if "libnvidia-ml" not in str(error.__cause__):
        raise
    print(f"torch {torch.__version__} works; fbgemm and torchrec need an NVIDIA driver, and this machine has none")
"""


def say(message: str) -> None:
    print(f"set-up: {message}", flush=True)


def read_lock(accelerator: str) -> list[str]:
    return (LOCKS / f"{accelerator}.lock").read_text().split()


# --- the stamp -----------------------------------------------------------------------------------------------------


def wanted_stamp(venv: Path, accelerator: str) -> dict[str, str]:
    """What a finished .venv says of itself. It holds its own path: scripts in a copied or moved one point elsewhere."""

    def digest(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    return {
        "venv": str(venv),
        "accelerator": accelerator,
        "lock": digest(LOCKS / f"{accelerator}.lock"),
        "project": digest(ROOT / "pyproject.toml"),
    }


def stamp_path(venv: Path) -> Path:
    return venv / "gatehouse-set-up.json"


def read_stamp(venv: Path) -> dict[str, str]:
    try:
        stamp = json.loads(stamp_path(venv).read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) and (venv / "bin" / "python").exists() else {}


def what_changed(stamp: dict[str, str], wanted: dict[str, str]) -> str | None:
    """Why the environment must be made anew, or None."""
    if not stamp:
        return "there is no finished .venv"
    reasons = {
        "venv": "this .venv was made in another folder",
        "accelerator": f"this .venv is for {stamp.get('accelerator')}, and {wanted['accelerator']} is asked for",
        "lock": f"infra/locks/{wanted['accelerator']}.lock changed",
    }
    return next((reason for key, reason in reasons.items() if stamp.get(key) != wanted[key]), None)


# --- the work ------------------------------------------------------------------------------------------------------


def run_pip(venv: Path, purpose: str, arguments: Sequence[str]) -> None:
    """Runs pip into a log, with its last line on the terminal every 30 s.

    Raises:
        SetUpError: pip failed; its own words are on the terminal and in the log.
    """
    log = venv / "set-up.log"
    command = [str(venv / "bin" / "python"), "-I", "-m", "pip", "install", "--progress-bar", "off", *arguments]
    started = time.monotonic()
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        while True:
            try:
                status = process.wait(HEARTBEAT_SECONDS)
                break
            except subprocess.TimeoutExpired:
                last = (last_lines(log, 1) or [""])[0]
                say(f"... {purpose}, {time.monotonic() - started:.0f} s so far: {last[:80]}")
    if status:
        print("\n".join(last_lines(log, 5)), file=sys.stderr)
        raise SetUpError(f"{purpose} failed: see the lines above and {log}, then run the same command again")


def last_lines(log: Path, count: int) -> list[str]:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return ([line for line in lines if line.startswith("ERROR")] or lines)[-count:]


def create_venv(venv: Path) -> None:
    # sys.executable may lie in the very .venv that is about to go.
    python = getattr(sys, "_base_executable", None) or sys.executable
    shutil.rmtree(venv, ignore_errors=True)
    done = subprocess.run([python, "-m", "venv", "--clear", str(venv)], capture_output=True, text=True, check=False)
    if done.returncode:
        words = " ".join((done.stdout + done.stderr).split())
        raise SetUpError(
            f"{python} cannot make a virtual environment (on Debian: apt install python3.11-venv): {words}"
        )


def available_torch(venv: Path) -> list[str]:
    """The versions of torch that pip can see; unlike a dry run, this downloads no wheel to find out."""
    command = [str(venv / "bin" / "python"), "-I", "-m", "pip", "index", "versions", TORCH, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return list(json.loads(done.stdout)["versions"]) if done.returncode == 0 else []


def install_packages(venv: Path, accelerator: str) -> None:
    lock, cuda_lock = read_lock(accelerator), read_lock("cuda")
    pinned = version_in(lock, TORCH)
    offered = preferred_version(available_torch(venv), pinned)
    choice = choose_torch(accelerator, pinned, offered, lambda: answers(f"{CPU_INDEX}/torch/"), platform.system())
    say(choice.sentence)
    if choice.source == "cpu index":
        try:
            run_pip(venv, "installing torch", ["--no-deps", "--index-url", CPU_INDEX, f"{TORCH}=={pinned}"])
        except SetUpError:
            if offered is None:
                raise
            choice = TorchChoice("cuda build", cuda_build_sentence(offered, f"{CPU_INDEX} answers but gives no wheel"))
            say(choice.sentence)
    pins = pins_for(choice, lock, cuda_lock)
    minutes = "about 2 minutes" if len(pins) == len(lock) and accelerator == "cpu" else "about 5 minutes, several GB"
    say(f"installing {len(pins)} packages, {minutes}")
    requirements = venv / "requirements.txt"
    requirements.write_text("\n".join(pins) + "\n")
    run_pip(venv, "installing packages", ["--no-deps", "-r", str(requirements)])


def check_works(venv: Path) -> None:
    done = subprocess.run([venv / "bin" / "python", "-I", "-c", CHECK], capture_output=True, text=True, check=False)
    if done.returncode:
        causes = [line for line in done.stderr.splitlines() if re.match(r"[\w.]*(Error|Exception)\b", line)]
        first = (causes or [f"status {done.returncode}"])[0]
        raise SetUpError(f"the packages are installed, but torch, torchrec and fbgemm do not work together: {first}")
    say(done.stdout.strip())


def set_up(venv: Path, accelerator: str) -> None:
    wanted, stamp = wanted_stamp(venv, accelerator), read_stamp(venv)
    if stamp == wanted:
        return
    reason = what_changed(stamp, wanted)
    started = time.monotonic()
    if reason:
        say(f"making .venv ({accelerator}), for {reason}")
        stamp_path(venv).unlink(missing_ok=True)  # first: without it, whatever is left is known to be unfinished
        create_venv(venv)
        run_pip(venv, "installing pip", [PIP])
        install_packages(venv, accelerator)
        check_works(venv)
    run_pip(venv, "installing gatehouse", ["--no-deps", "--no-build-isolation", "-e", str(ROOT)])
    unfinished = stamp_path(venv).with_suffix(".tmp")
    unfinished.write_text(json.dumps(wanted, indent=1))
    unfinished.replace(stamp_path(venv))
    say(f"done in {time.monotonic() - started:.0f} s")


def wait_for_lock(file: TextIO) -> None:
    """Two set-ups of one folder at once: the second waits, then finds the work done."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("waiting for another set-up of this folder")
        fcntl.flock(file, fcntl.LOCK_EX)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Makes .venv from infra/locks, if it is not up to date.")
    parser.add_argument("--accelerator", choices=("cpu", "cuda"), default="cpu")
    accelerator: str = parser.parse_args(arguments).accelerator
    try:
        if sys.version_info[:2] != PYTHON:
            raise SetUpError(
                f"Gatehouse needs Python 3.11, and this is {platform.python_version()}: python3.11 {__file__}"
            )
        with Path(__file__).open() as this_file:
            wait_for_lock(this_file)
            set_up(ROOT / ".venv", accelerator)
    except SetUpError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("set-up: interrupted; run the same command again to finish it", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
