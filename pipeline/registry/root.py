"""The place of a registry, a folder or one in a store: where its files lie, and what may be opened there."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pipeline import s3, storage
from pipeline.errors import ArtifactError, ConfigError, StorageError
from pipeline.registry import swap
from pipeline.registry.names import check_name
from pipeline.registry.records import RecordT, parse_record

Clock = Callable[[], datetime]
LOCK_NAME = ".registry.lock"
VERSION_REMEDY = "restore the file, or promote another version"


def utc_now() -> datetime:
    return datetime.now(UTC)


class Root:
    """Where a registry lies. Names are relative to it, and none leads out of it."""

    def __init__(self, location: str, clock: Clock) -> None:
        if not location.isprintable() or ("://" in location and not storage.is_remote(location)):
            raise ConfigError(
                f"the registry's location {location!a} is neither a folder nor in a store",
                f"give a folder, or {s3.SCHEME}bucket/folder",
            )
        if storage.is_remote(location):
            s3.key_of(location)
            location = storage.join(location, ".")
        self.location = location
        self.is_remote = storage.is_remote(location)
        self.clock = clock

    def at(self, name: str) -> str:
        """The location of a name.

        Raises:
            ArtifactError: the name is no plain one, or what has it is no plain file or folder.
        """
        try:
            check_name(name)
        except ValueError as error:
            raise ArtifactError(f"{self.location}: {error}", "remove what has that name") from error
        if not self.is_remote:
            path = Path(self.location)
            for part in name.split("/"):
                path /= part
                _check_plain(path)
        return storage.join(self.location, name)

    def read(self, kind: type[RecordT], name: str, remedy: str) -> tuple[RecordT, str] | None:
        """A record, and the version of its file for `swap`; None where there is none.

        Raises:
            ArtifactError: it is damaged.
        """
        location = self.at(name)
        with explaining(location):
            content = swap.read(location)
        return (parse_record(kind, content.data, location, remedy), content.version) if content else None

    def swap(self, name: str, record: RecordT, version: str | None) -> bool:
        """Writes a record if its file is still of a version, or not there for None. Returns whether it did."""
        location = self.at(name)
        with explaining(location):
            return swap.swap(location, record.to_bytes(), version, Path(self.location, LOCK_NAME))


def _check_plain(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except OSError:
        return  # It is not there, or whoever opens it will say why it cannot be.
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "no file"
        raise ArtifactError(f"{path} is {kind}", "a registry has only files and folders: restore it, or remove it")


@contextmanager
def explaining(location: str) -> Iterator[None]:
    """Gives a name to an OSError that the storage has none for: a file that is not there, or a missing right."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArtifactError(f"{error.filename or location} is not there", VERSION_REMEDY) from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        raise StorageError(
            f"{location} cannot be used: {reason}", "correct the registry's location, or who may read and write there"
        ) from error
