"""Notices that a rank makes no progress, and writes down where each of its threads stands."""

import faulthandler
import sys
import threading
import time
from pathlib import Path
from typing import Self

CHECKS_PER_PERIOD = 4


class Watchdog:
    """A context manager around a loop that calls `beat`; after `seconds` without one it dumps all stacks to `path`.

    One dump for each stall: the file holds the newest.
    """

    def __init__(self, seconds: float, path: Path) -> None:
        self.seconds = seconds
        self.path = path
        self._last_beat = time.monotonic()
        self._is_dumped = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    def beat(self) -> None:
        """Says that the loop goes on."""
        self._last_beat = time.monotonic()
        self._is_dumped = False

    def __enter__(self) -> Self:
        self.beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(self.seconds / CHECKS_PER_PERIOD):
            stalled_seconds = time.monotonic() - self._last_beat
            if stalled_seconds >= self.seconds and not self._is_dumped:
                self._is_dumped = True
                self._dump(stalled_seconds)

    def _dump(self, stalled_seconds: float) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        print(
            f"warning: no training step has ended for {stalled_seconds:.0f} s; all threads' stacks are in {self.path}",
            file=sys.stderr,
            flush=True,
        )
