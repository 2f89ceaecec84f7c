"""One run at a time in a folder: a lock that ends with the process that holds it, however that ends."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pipeline.errors import LockedError, UsageError
from pipeline.files import explaining_space

LOCK_NAME = ".lock"


@contextmanager
def locked(folder: Path, run: str) -> Iterator[None]:
    """Holds the folder's lock while the block runs; `run` says in the message of others what holds it.

    The lock is the operating system's (flock, which network file systems pass on), so a killed holder leaves none.

    Raises:
        LockedError: another process holds it; names its host, process, run and since when.
        UsageError: the folder cannot be written.
    """
    try:
        with explaining_space(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # Not removed at the end: another process could hold the lock of a file that is no longer there.
            descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error}", "choose a `workspace` that can be") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(
                f"{folder} is locked by {_describe_holder(folder)}",
                "wait until it has ended, stop it, or choose another `workspace`",
            ) from None
        since = datetime.now(UTC).isoformat(timespec="seconds")
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "run": run, "since": since}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _describe_holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / LOCK_NAME).read_bytes())
        return f"host {holder['host']}, pid {holder['pid']}, run {holder['run']}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # which has not written yet who it is
