"""What a process sets for itself and the processes that it starts, before anything heavy is loaded."""

import ctypes
import os

# Memory that is freed stays with the process, up to so much: taking it anew from the system, page by page, can cost
# more than what is done in it. Numbers of `mallopt`, and the environment variables that set the same in new processes.
KEPT_BYTES = 1 << 30
LARGEST_KEPT_BLOCK_BYTES = 256 << 20
SPINS = 1000
MALLOC_OPTIONS = {
    "MALLOC_TRIM_THRESHOLD_": (-1, KEPT_BYTES),
    "MALLOC_MMAP_THRESHOLD_": (-3, LARGEST_KEPT_BLOCK_BYTES),
    # One heap for all threads: heaps of their own, which Ray's workers train in, keep no large blocks.
    "MALLOC_ARENA_MAX": (-8, 1),
}


def set_up_process() -> None:
    """Sets how threads wait and how memory is kept. A variable that the environment has is left as it is."""
    # OpenMP threads that spin long while they wait make a training step tens of times slower on a machine with other
    # work; those that do not spin at all are woken again for each of hundreds of operations a step. Read when torch is
    # loaded, which no module does before a verb runs.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
    for name, (option, value) in MALLOC_OPTIONS.items():
        if name not in os.environ:
            os.environ[name] = str(value)
            mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it
            if mallopt is not None:
                mallopt(option, value)
