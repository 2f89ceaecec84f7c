"""What the machine of a benchmark is, and the most it can do, measured in the same run."""

import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.doctor import memory_bytes

COPY_BYTES = 1 << 28
NUM_COPIES = 7


@dataclass(frozen=True)
class Machine:
    """`copy_bytes_per_second` counts bytes read and bytes written, as the STREAM benchmark does for its copy."""

    processor: str
    num_cores: int
    memory_bytes: int
    copy_bytes_per_second: float


def measure_machine(num_threads: int) -> Machine:
    """This machine and what `num_threads` threads can do on it; takes a second."""
    return Machine(_processor(), len(os.sched_getaffinity(0)), memory_bytes(), measure_copy(num_threads))


def measure_copy(num_threads: int) -> float:
    """Bytes per second that threads read and write together, each copying an array that no cache holds; the best of
    `NUM_COPIES`."""
    pairs = [(np.ones(COPY_BYTES, np.uint8), np.zeros(COPY_BYTES, np.uint8)) for _ in range(num_threads)]
    best = 0.0
    with ThreadPoolExecutor(num_threads) as pool:
        for _ in range(NUM_COPIES):
            started = time.perf_counter()
            list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), pairs))
            best = max(best, 2 * COPY_BYTES * num_threads / (time.perf_counter() - started))
    return best


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
