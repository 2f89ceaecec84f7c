"""Runs a command as a process of its own on some cores, and measures its time, processor time and memory."""

import os
import resource
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from pipeline.errors import SetupError

POLL_SECONDS = 0.02
KIB = 1024


@dataclass(frozen=True)
class Usage:
    """What a command took.

    `start_seconds` is how long it took to its first line of output, which is where its work begins: before it lie the
    interpreter and the imports. `other_cpu_seconds` is the processor time that all else on the machine had meanwhile:
    where it is not small, times say little. `peak_rss_bytes` counts the pages of files that were mapped, which the page
    cache can take back; `peak_anonymous_bytes` is memory of the process itself.
    """

    seconds: float
    start_seconds: float
    cpu_seconds: float
    other_cpu_seconds: float
    peak_rss_bytes: int
    peak_anonymous_bytes: int


def run_measured(command: Sequence[str | Path], num_cores: int) -> Usage:
    """Runs a command to its end on the first `num_cores` of this process's cores.

    Raises:
        SetupError: it fails, or prints nothing; the message has its last line on standard error.
    """
    first_line: list[float] = []
    cpu_before, machine_before = _cpu_seconds_of_children(), _cpu_seconds_of_machine()
    with TemporaryFile() as errors:
        with _on_cores(num_cores):
            started = time.monotonic()
            process = subprocess.Popen(
                list(map(str, command)),
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "OMP_NUM_THREADS": str(num_cores)},
            )
        assert process.stdout is not None
        drain = threading.Thread(target=_drain, args=(process.stdout, first_line), daemon=True)
        drain.start()
        peak_rss, peak_anonymous = _wait(process)
        seconds = time.monotonic() - started
        drain.join()
        errors.seek(0)
        said = errors.read().decode(errors="replace").split("\n")
    if process.returncode or not first_line:
        last = next((line.strip() for line in reversed(said) if line.strip()), "it says nothing")
        raise SetupError(
            f"{' '.join(map(str, command))} ended with status {process.returncode}: {last.rstrip('.')}",
            "run this command by itself to see more",
        )
    cpu_seconds = _cpu_seconds_of_children() - cpu_before
    # The machine counts in hundredths of a second, and the processes by themselves more exactly.
    others = max(0.0, _cpu_seconds_of_machine() - machine_before - cpu_seconds)
    return Usage(seconds, first_line[0] - started, cpu_seconds, others, peak_rss, peak_anonymous)


@contextmanager
def _on_cores(num_cores: int) -> Iterator[None]:
    """Processes that the block starts see only that many cores, whichever way they ask."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:num_cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """The largest resident and anonymous memory of a process, in bytes, when it has ended."""
    rss = anonymous = 0
    try:
        while process.poll() is None:
            # Not getrusage's peak: a child's starts with what its parent held when it was forked.
            rss, anonymous = map(max, (rss, anonymous), _memory(process.pid))
            time.sleep(POLL_SECONDS)
    finally:
        process.kill()  # does nothing to a process that has ended
    return rss, anonymous


def _drain(output: IO[bytes], first_line: list[float]) -> None:
    for _ in output:
        if not first_line:
            first_line.append(time.monotonic())


def _cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _cpu_seconds_of_machine() -> float:
    """Of all processes on all processors, and of other machines on the same host."""
    user, nice, system, _idle, _waiting, *rest = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> tuple[int, int]:
    """The largest resident memory of a process so far, and its anonymous memory now, in bytes; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    fields = dict(line.split(":", 1) for line in lines)
    rss, anonymous = (int(fields.get(name, "0").split()[0]) * KIB for name in ("VmHWM", "RssAnon"))
    return rss, anonymous
