"""The frame of every benchmark: contestants take turns, so that whatever else the machine does falls on all of them."""

import os
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.benchmark.machine import measure_machine
from pipeline.benchmark.process import Usage, run_measured
from pipeline.doctor import code_revision, installed_versions
from pipeline.executor import Progress

FORMAT = 1
GATEHOUSE = "gatehouse"


StartStage = Callable[[str], Progress]


@dataclass(frozen=True)
class Frame:
    """What every benchmark is given: the folder of its data and outputs, and how to measure."""

    work: Path
    num_rounds: int
    num_threads: int
    with_peers: bool = False


@dataclass(frozen=True)
class Contestant:
    """A command that works on `num_rows` rows and writes to `folder`, which is not there before each run.

    `is_start_free`: in comparisons the time to its first line of output does not count.
    """

    name: str
    versions: dict[str, str]
    command: tuple[str | Path, ...]
    folder: Path
    num_rows: int
    is_start_free: bool = False

    def clear(self) -> None:
        """Removes what a run wrote."""
        shutil.rmtree(self.folder, ignore_errors=True)


def run(contestant: Contestant, num_threads: int) -> Usage:
    """Runs the command of a contestant to its end."""
    return run_measured(contestant.command, num_threads)


Measure = Callable[[Contestant, int], Usage]


def own_versions(package: str) -> dict[str, str]:
    """The versions of Gatehouse and of the package that does most of the work."""
    return installed_versions((GATEHOUSE, package))


def take_rounds(
    contestants: Sequence[Contestant],
    frame: Frame,
    progress: Progress,
    check: Callable[[Contestant], None] | None = None,
    measure: Measure = run,
) -> list[list[Usage]]:
    """Runs each contestant once a round, in order, and gives the usages of each; `check` follows its first run.

    `measure` runs a contestant on a number of threads; its usage may have more figures than others.

    Raises:
        SetupError: a command fails.
    """
    usages: list[list[Usage]] = [[] for _ in contestants]
    total = frame.num_rounds * len(contestants)
    progress("runs", 0, total, 0, "runs")
    for place in range(total):
        round_, turn = divmod(place, len(contestants))
        contestant = contestants[turn]
        contestant.clear()
        os.sync()  # so that nobody's files are written out during the run of another
        usages[turn].append(measure(contestant, frame.num_threads))
        if check and round_ == 0:
            check(contestant)
        contestant.clear()
        progress("runs", place + 1, total, place + 1, "runs")
    return usages


def record(
    benchmark: str,
    settings: dict[str, Any],
    contestants: Sequence[Contestant],
    usages: Sequence[Sequence[Usage]],
    frame: Frame,
    checked: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """All figures of a benchmark as JSON can hold them, with those of the machine, which it measures now.

    `settings` say how much work there was.
    """
    return {
        "format": FORMAT,
        "benchmark": benchmark,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": code_revision(),
        "python": platform.python_version(),
        "machine": asdict(measure_machine(frame.num_threads)),
        "num_threads": frame.num_threads,
        "settings": {**settings, "rounds": frame.num_rounds},
        "checked": checked,
        "contestants": [
            {
                "name": one.name,
                "versions": one.versions,
                "num_rows": one.num_rows,
                "is_start_free": one.is_start_free,
                "runs": list(map(asdict, own)),
            }
            for one, own in zip(contestants, usages, strict=True)
        ],
    }
