"""How a run is asked to stop after the next step: by SIGTERM in its own process, or by a file its workers look for."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

# Looking for a file on shared storage costs a round trip.
LOOK_SECONDS = 1.0


def never() -> bool:
    return False


@dataclass(frozen=True)
class Signals:
    """What a run looks for: before each step whether to stop, now and then whether a machine of it will be taken."""

    is_stop_requested: Callable[[], bool] = never
    is_preempted: Callable[[], bool] = never


@contextmanager
def on_sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets while the block runs; never set outside the main thread, which gets no signals."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(_signal: int, _frame: FrameType | None) -> None:
        asked.set()

    earlier = signal.signal(signal.SIGTERM, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, earlier)


class StopFile:
    """Whether a file is there; looks at most once a second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._next_look = 0.0
        self._is_there = False

    def __call__(self) -> bool:
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._is_there = self.path.exists()
        return self._is_there
