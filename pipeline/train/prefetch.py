"""Takes batches from an iterator ahead of time, in a thread, into memory that a GPU can copy from by itself."""

import contextlib
import queue
import threading
from collections.abc import Iterator

from models.batch import Batch

DEPTH = 4
POLL_SECONDS = 0.1


def prefetched(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches in pinned memory; at most `DEPTH` wait. An error of `batches` is raised in its place.

    Closing the generator ends the thread.
    """
    waiting: queue.Queue[Batch | Exception | None] = queue.Queue(DEPTH)
    is_closed = threading.Event()

    def put(item: Batch | Exception | None) -> None:
        while not is_closed.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(item, timeout=POLL_SECONDS)
                break

    def fill() -> None:
        try:
            for batch in batches:
                put(batch.pin_memory())
                if is_closed.is_set():
                    return
            put(None)
        except Exception as error:  # raised again where the batch is taken
            put(error)

    thread = threading.Thread(target=fill, daemon=True, name="prefetch")
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        is_closed.set()
        thread.join()
