"""The store behind `s3://` locations: its client, and what its answers mean in words.

S3 is any store with its interface. The environment says which and who asks, as for other programs: AWS_ENDPOINT_URL_S3
or AWS_ENDPOINT_URL, AWS_CA_BUNDLE, AWS_REGION; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the role of
the machine. No message holds any of that.
"""

import functools
import os
import posixpath
import re
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, GatehouseError, SetupError, StorageError
from pipeline.files import AWS_ERROR, describe_answer

# It is loaded where it is used: that takes longer than all that the command line does with locations.
if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem

SCHEME = "s3://"
REQUEST_ATTEMPTS = 3
CONNECT_SECONDS = 5
# Without a byte; the client's own limit of 3 is less than what a busy store may take, and MinIO sends one every 10 s
# while it puts a large file together.
REQUEST_SECONDS = 15

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_REFUSALS = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY",
    "SIGNATURE",
    "TOKEN",
    "UNRECOGNIZED_CLIENT",
    "EXPIRED",
    "SKEWED",
    "NO_CREDENTIALS",
)


def key_of(location: str) -> str:
    """`bucket/key` of a remote location, as pyarrow takes it.

    Raises:
        ConfigError: what follows s3:// is not the name of a bucket.
    """
    path = posixpath.normpath(location.removeprefix(SCHEME))
    if not _BUCKET.fullmatch(path.partition("/")[0]):
        # It is not shown: what some programs accept there is s3://KEY:SECRET@bucket.
        raise ConfigError(
            f"a location starts with {SCHEME}, and what follows is not the name of a bucket",
            f"write {SCHEME}bucket/folder; credentials belong into the environment",
        )
    return path


def endpoint() -> str | None:
    """Where the store is, if the environment says so."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def client() -> "S3FileSystem":
    """The client of the store that the environment says; all files of a process have one."""
    return _connect(endpoint(), os.environ.get("AWS_CA_BUNDLE"), REQUEST_ATTEMPTS)


@functools.cache
def _connect(endpoint: str | None, ca_file: str | None, attempts: int) -> "S3FileSystem":
    """One client per process. It reads the environment by itself, but for these two."""
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    return S3FileSystem(
        endpoint_override=endpoint,
        tls_ca_file_path=ca_file,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=attempts),
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        # Small files then take one request, and large ones no more memory than a few parts.
        allow_delayed_open=True,
        background_writes=False,
    )


def no_bucket(location: str) -> StorageError:
    """The error of a location whose bucket is not there."""
    bucket = key_of(location).partition("/")[0]
    return StorageError(f"there is no bucket {bucket!r}", "correct the location, AWS_ENDPOINT_URL or AWS_REGION")


def explain(error: OSError, location: str) -> GatehouseError | None:
    """What the store's answer means; None where `error` is no answer of a store."""
    answer = AWS_ERROR.search(str(error))
    if answer is None:
        return None
    reason = describe_answer(answer)
    if answer["kind"] == "NO_SUCH_BUCKET":
        return no_bucket(location)
    if any(refusal in answer["kind"] for refusal in _REFUSALS):
        return SetupError(
            f"{location} cannot be used with these credentials: {reason}",
            "correct AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or AWS_PROFILE, or ask for the "
            "right to read, write and list there",
        )
    return StorageError(
        f"{location} cannot be used: {reason}", "correct the location, AWS_ENDPOINT_URL, AWS_REGION or the credentials"
    )
