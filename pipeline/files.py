"""Files that exist whole or not at all: write beside, flush, rename. Full disks and faltering storage are survived."""

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import StorageError

CHUNK_BYTES = 1 << 20
# An action that fails this often in a row is given up; the wait doubles after each failure.
MAX_FAILURES = 3
FIRST_WAIT_SECONDS = 0.5

_SPACE_REMEDIES = {
    errno.ENOSPC: "free space there, or choose a `workspace` on a larger disk",
    errno.EDQUOT: "free space there, ask for a larger quota, or choose a `workspace` on another disk",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f), or choose a `workspace` on another file system",
}
_PASSING_ERRORS = {
    errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH,
    errno.EINTR, errno.EIO, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH, errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip
# How pyarrow tells what a store with the interface of S3 answered: no class of its own, no errno.
AWS_ERROR = re.compile(
    r"AWS Error (UNKNOWN \()?(?P<kind>\w+|HTTP status \d+)\)? during (?P<operation>\w+) operation: "
    r"(curlCode: \d+, (?P<network>[^;]+))?"
)
# No answer, too many requests, and errors of the store itself. As the last ones pyarrow also tells any refusal of a
# range of bytes.
_PASSING_ANSWER = re.compile(
    r"NETWORK_CONNECTION|REQUEST_TIMEOUT|SLOW_DOWN|THROTTLING|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|status (408|429|5..)"
)

ResultT = TypeVar("ResultT")


def retry(action: Callable[[], ResultT], path: str | Path) -> ResultT:
    """The result of `action`, which reads or writes `path`, a local or remote one, and can be called again.

    An OSError that may pass (EIO, ETIMEDOUT, ESTALE and their like, or such an answer of a store) is waited out; any
    other error is raised at once.

    Raises:
        StorageError: `action` failed `MAX_FAILURES` times in a row; names the path and the last error.
    """
    for failures in range(1, MAX_FAILURES + 1):
        try:
            return action()
        except OSError as error:
            answer = AWS_ERROR.search(str(error))
            if not (_PASSING_ANSWER.search(answer["kind"]) if answer else error.errno in _PASSING_ERRORS):
                raise
            if failures == MAX_FAILURES:
                checked = "network and AWS_ENDPOINT_URL" if answer else "disk or the network file system"
                raise StorageError(
                    f"the storage under {path} failed {failures} times in a row: {_reason(error)}",
                    f"check the {checked}, then run the same command again",
                ) from error
        time.sleep(FIRST_WAIT_SECONDS * 2 ** (failures - 1))
    raise AssertionError("unreachable")


@contextmanager
def explaining_space(path: Path, num_bytes: int | None = None) -> Iterator[None]:
    """Turns the OSError of a full disk, quota or file-size limit into a StorageError.

    `path` is the file or folder that the block writes, and `num_bytes` about how large it will be.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _SPACE_REMEDIES:
            raise
        needed = f"about {num_bytes:,} bytes are" if num_bytes is not None else "more space is"
        raise StorageError(
            f"{path} cannot be written: {_reason(error)}; {needed} needed, {_free_bytes(path):,} bytes are free",
            _SPACE_REMEDIES[error.errno],
        ) from error


def _reason(error: OSError) -> str:
    answer = AWS_ERROR.search(str(error))
    return os.strerror(error.errno or 0) if answer is None else describe_answer(answer)


def describe_answer(answer: re.Match[str]) -> str:
    """The kind of a store's answer. Its own words are left out: they can hold what a log should not."""
    kind = answer["kind"] if " " in answer["kind"] else answer["kind"].replace("_", " ").lower()
    network = f" ({answer['network']})" if answer["network"] else ""
    return f"{kind} during {answer['operation']}{network}"


def _free_bytes(path: Path) -> int:
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def write_atomically(path: Path, write: Callable[[Path], None], num_bytes: int | None = None) -> None:
    """Calls `write` with a temporary path in the same folder, then renames the result to `path`.

    `num_bytes`, about how large the file will be, is for the message of a full disk.

    Raises:
        StorageError: the disk is full. Whatever is raised, nothing of the file is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with explaining_space(path, num_bytes):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames inside `folder` survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Writes strict JSON (no NaN), keys in their order, atomically."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text, atomically."""

    content = text.encode()

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    retry(lambda: write_atomically(path, write, len(content)), path)


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""

    def read() -> str:
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    return retry(read, path)
