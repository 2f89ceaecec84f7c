"""What a process sets for itself and the processes that it starts, before anything heavy is loaded."""

import ctypes
import os

# Memory that is freed stays with the process, up to so much: taking it anew from the system, page by page, can cost
# more than what is done in it. Numbers of `mallopt`, and the environment variables that set the same in new processes.
KEPT_BYTES = 512 << 20
LARGEST_KEPT_BLOCK_BYTES = 32 << 20
MALLOC_OPTIONS = {
    "MALLOC_TRIM_THRESHOLD_": (-1, KEPT_BYTES),
    "MALLOC_MMAP_THRESHOLD_": (-3, LARGEST_KEPT_BLOCK_BYTES),
}


def set_up_process() -> None:
    """Sets how threads wait and how memory is kept. A variable that the environment has is left as it is."""
    # OpenMP threads that spin while they wait make a training step tens of times slower on a machine with other work.
    # Read when torch is loaded, which no module does before a verb runs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name, (option, value) in MALLOC_OPTIONS.items():
        if name not in os.environ:
            os.environ[name] = str(value)
            mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it
            if mallopt is not None:
                mallopt(option, value)
