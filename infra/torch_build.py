"""Chooses the build of torch to install: the same version exists for the CPU and for CUDA, under one name.

On the public index the Linux wheel is the CUDA build. Installed without the CUDA libraries, as the CPU lock would have
it, that wheel does not import. PyTorch's own index has CPU wheels, but not every machine reaches it.
"""

from __future__ import annotations

import os
import re
import ssl
import threading
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass

TORCH = "torch"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PROBE_SECONDS = 5.0


class SetUpError(Exception):
    """One line for the user: what failed and what to do."""


@dataclass(frozen=True)
class TorchChoice:
    """Which build of torch to install, and the line that tells the user so.

    `source` is "as offered" (what pip takes by itself), "exact" (the public build, though pip prefers a local one),
    "cpu index" (PyTorch's own), or "cuda build" (with the CUDA libraries it needs in order to import).
    """

    source: str
    sentence: str


def name_of(pin: str) -> str:
    return pin.split("==")[0]


def version_in(lock: Sequence[str], name: str) -> str:
    return next(pin.split("==")[1] for pin in lock if name_of(pin) == name)


def preferred_version(available: Sequence[str], pinned: str) -> str | None:
    """The version pip takes for `torch==pinned`: a local build such as 2.13.0+cpu comes before the plain one."""

    def build_order(version: str) -> list[tuple[int, int, str]]:
        parts = re.split(r"[.+_-]", version)
        return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]

    return max((v for v in available if v.split("+")[0] == pinned), key=build_order, default=None)


def choose_torch(
    accelerator: str, pinned: str, offered: str | None, index_answers: Callable[[], bool], system: str
) -> TorchChoice:
    """Chooses the build of torch; `index_answers` is asked only when the answer matters.

    Raises:
        SetUpError: no build of this version can be had.
    """
    if accelerator == "cuda":
        if offered is None:
            raise SetUpError(f"pip finds no torch {pinned}: check pip's package index and try again")
        if offered.endswith("+cpu"):
            return TorchChoice("exact", f"torch {pinned}: the public CUDA build, though pip is set up with {offered}")
        return TorchChoice("as offered", f"torch {offered}: the CUDA build that pip offers")
    if offered and offered.endswith("+cpu"):
        return TorchChoice("as offered", f"torch {offered}: pip is set up with this CPU build")
    if offered and system != "Linux":
        return TorchChoice("as offered", f"torch {offered}: builds for {system} have no CUDA")
    if index_answers():
        return TorchChoice("cpu index", f"torch {pinned}: the CPU build from PyTorch's own index, {CPU_INDEX}")
    if offered is None:
        raise SetUpError(
            f"pip finds no torch {pinned} and {CPU_INDEX} does not answer: check the network and try again"
        )
    return TorchChoice("cuda build", cuda_build_sentence(offered, f"{CPU_INDEX} does not answer"))


def cuda_build_sentence(version: str, reason: str) -> str:
    return f"torch {version}: the CUDA build and its libraries, for {reason}; it runs on the CPU but takes 4 GB more"


def pins_for(choice: TorchChoice, lock: Sequence[str], cuda_lock: Sequence[str]) -> list[str]:
    """The pins to install for a choice: the lock, plus what that build of torch needs in order to import."""
    if choice.source == "exact":  # `==` also matches a local build, `===` does not
        return [pin.replace("==", "===") if name_of(pin) == TORCH else pin for pin in lock]
    if choice.source == "cuda build":
        # The two fbgemm packages own the same folder, so the CUDA one stays out.
        return [*lock, *(pin for pin in cuda_lock if pin not in lock and name_of(pin) != "fbgemm-gpu")]
    return list(lock)


def answers(url: str, limit_seconds: float = PROBE_SECONDS) -> bool:
    """Whether `url` gives a page within the limit, which here covers name look-up, connection and answer together."""
    found: list[bool] = []

    def ask() -> None:
        try:
            context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT"))
            with urllib.request.urlopen(url, timeout=limit_seconds, context=context) as page:
                found.append(page.status == 200 and bool(page.read(1)))
        except (OSError, ValueError):
            pass

    # A thread, because urlopen's timeout starts again with every byte and does not cover the name look-up.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(limit_seconds)
    return bool(found)
