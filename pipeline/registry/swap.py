"""Small files that several processes write: read with their version, written only if they are still of that version.

On a disk a lock of the operating system is held while the file is compared and renamed into its place. In a store it is
a conditional request; pyarrow has none, so botocore asks, with the same environment.
"""

import fcntl
import functools
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import s3, storage
from pipeline.files import ResultT, write_atomically

# What a store answers where there is no such file, or another one than the condition says. A bare 404 is no such
# answer: a wrong endpoint gives it, too, and a registry without a champion is not what to make of that.
_CHANGED_CODES = ("NoSuchKey", "PreconditionFailed")
# Another conditional request is under way.
_CONFLICT_STATUS = 409


class Content(NamedTuple):
    """All of a file, and a text that is another one when the content is: what `swap` compares."""

    data: bytes
    version: str


def read(location: str) -> Content | None:
    """A small file; None where there is none."""
    if storage.is_remote(location):
        return storage.attempt(lambda: _get(location), location)
    return storage.attempt(lambda: _read(Path(location)), location)


def swap(location: str, data: bytes, version: str | None, lock: Path) -> bool:
    """Writes a small file if it is still of a version, or not there for None. Returns whether it did.

    On a disk, all who write it hold the lock of the same file. No two writers may write the same bytes: a store whose
    answer was lost is asked whether they are there.
    """
    if storage.is_remote(location):
        return storage.attempt(lambda: _put(location, data, version), location)
    return storage.attempt(lambda: _replace(Path(location), data, version, lock), location)


# --- on a disk


def _read(path: Path) -> Content | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return Content(data, hashlib.sha256(data).hexdigest())


def _replace(path: Path, data: bytes, version: str | None, lock: Path) -> bool:
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        found = _read(path)
        if (found.version if found else None) != version:
            return False

        def write(temporary: Path) -> None:
            temporary.write_bytes(data)

        write_atomically(path, write, len(data))
        return True
    finally:
        os.close(descriptor)


# --- in a store


def _get(location: str) -> Content | None:
    answer = _ask("GetObject", location, lambda client, target: _whole(client.get_object(**target)))
    return answer if isinstance(answer, Content) else None


def _whole(answer: dict[str, Any]) -> Content:
    return Content(answer["Body"].read(), answer["ETag"])


def _put(location: str, data: bytes, version: str | None) -> bool:
    condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
    answer = _ask("PutObject", location, lambda client, target: client.put_object(**target, Body=data, **condition))
    if answer is not None:
        return True
    # It may have changed by an earlier request of ours, whose answer did not arrive.
    found = _get(location)
    return found is not None and found.data == data


def _ask(operation: str, location: str, ask: Callable[[Any, dict[str, str]], ResultT]) -> ResultT | None:
    """The answer to a request; None where the file is not there or not of the version.

    Raises:
        OSError: any other answer, in the words of pyarrow's, which `storage.attempt` knows.
    """
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

    bucket, _, key = s3.key_of(location).partition("/")
    try:
        client = _connect(s3.endpoint(), os.environ.get("AWS_REGION"))
        return ask(client, {"Bucket": bucket, "Key": key})
    except ClientError as error:
        status, code = error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"].get("Code", "")
        if code in _CHANGED_CODES:
            return None
        raise _as_os_error(operation, _kind_of(status, code)) from None
    except BotoCoreError as error:
        is_network = isinstance(error, _network_errors())
        raise _as_os_error(operation, "NETWORK_CONNECTION" if is_network else "NO_CREDENTIALS") from None


def _as_os_error(operation: str, kind: str) -> OSError:
    return OSError(f"AWS Error {kind} during {operation} operation: ")


def _kind_of(status: int, code: str) -> str:
    """`AccessDenied` as ACCESS_DENIED; of what may pass the status says more than the code."""
    if status == _CONFLICT_STATUS:
        return "SLOW_DOWN"
    if status >= 500 or status == 429 or not code.isalpha():
        return f"HTTP status {status}"
    return re.sub(r"(?<!^)(?=[A-Z])", "_", code).upper()


def _network_errors() -> tuple[type[Exception], ...]:
    from botocore.exceptions import HTTPClientError, IncompleteReadError

    return HTTPClientError, IncompleteReadError


@functools.cache
def _connect(endpoint: str | None, region: str | None) -> Any:
    """One client per process; a bundle of certificates it finds by itself. It asks once: `attempt` asks again."""
    from botocore.config import Config  # type: ignore[import-untyped]
    from botocore.session import Session  # type: ignore[import-untyped]

    config = Config(
        connect_timeout=s3.CONNECT_SECONDS,
        read_timeout=s3.REQUEST_SECONDS,
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path" if endpoint else "auto"},
        # Stores that only have the interface of S3 may not know its newer checksums.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return Session().create_client("s3", endpoint_url=endpoint, region_name=region, config=config)
