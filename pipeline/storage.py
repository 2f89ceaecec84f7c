"""Where files lie: a local path, or `s3://bucket/key`. Finding, opening and copying them.

What may pass is tried again on two levels: a request by the client of the store, within a second or two, and an action
as a whole by `files.retry`.
"""

import glob
import hashlib
import os
import posixpath
import shutil
import stat
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import ArtifactError
from pipeline.files import ResultT, retry, write_atomically
from pipeline.files import sha256_of as sha256_of_path
from pipeline.s3 import SCHEME, client, explain, key_of, no_bucket

# It is loaded where it is used: that takes longer than all that the command line does with locations.
if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileInfo

# Of one request, and in memory at once.
COPY_BYTES = 16 << 20


class FileVersion(NamedTuple):
    """The size of a file, and a text that is another one after the file was written again."""

    num_bytes: int
    version: str


class ListedFile(NamedTuple):
    """A file below a folder: its name as seen from there, and when it was written, in seconds since 1970."""

    name: str
    modified_seconds: float


# --- locations


def is_remote(location: str) -> bool:
    return location.startswith(SCHEME)


def join(folder: str, name: str) -> str:
    """`name` as seen from a folder: `name` itself where it is remote or absolute."""
    if is_remote(name):
        return name
    if is_remote(folder) and not os.path.isabs(name):
        return SCHEME + posixpath.normpath(f"{folder.removeprefix(SCHEME)}/{name}")
    return str(Path(folder) / name)


def name_of(location: str) -> str:
    """The last part of a location."""
    return posixpath.basename(location.rstrip("/"))


# --- finding


def exists(location: str) -> bool:
    """Whether there is a file."""
    return bool(_info(location).is_file) if is_remote(location) else Path(location).is_file()


def is_folder(location: str) -> bool:
    return _info(location).type.name == "Directory" if is_remote(location) else Path(location).is_dir()


def find_files(location: str) -> list[str]:
    """The file itself, or the files that lie directly in a folder, or those that a glob matches; in order."""
    if is_remote(location):
        return _find_remote(location)
    path = Path(location)
    if path.is_file():
        return [location]
    found = path.iterdir() if path.is_dir() else map(Path, glob.glob(location, recursive=True))
    return sorted(str(file) for file in found if file.is_file())


def _find_remote(location: str) -> list[str]:
    if exists(location):
        return [location]
    parts = key_of(location).split("/")
    if is_folder(location):
        return _list(location, is_recursive=False)
    num_plain = next((place for place, part in enumerate(parts) if glob.has_magic(part)), None)
    if num_plain is None:
        return []
    below = _list(SCHEME + "/".join(parts[:num_plain]), is_recursive=True)
    return [file for file in below if _matches(key_of(file).split("/"), parts)]


def _list(folder: str, *, is_recursive: bool) -> list[str]:
    return sorted(SCHEME + info.path for info in _infos(folder, is_recursive=is_recursive))


def _infos(folder: str, *, is_recursive: bool) -> "list[FileInfo]":
    from pyarrow.fs import FileSelector

    selector = FileSelector(key_of(folder), allow_not_found=True, recursive=is_recursive)
    found: list[FileInfo] = attempt(lambda: client().get_file_info(selector), folder)
    return [info for info in found if info.is_file]


def list_files(folder: str) -> list[ListedFile]:
    """All files below a folder, in the order of their names; none where there is no such folder.

    Symbolic links are not followed, and not listed.
    """
    if is_remote(folder):
        start = len(key_of(folder)) + 1
        infos = _infos(folder, is_recursive=True)
        return sorted(ListedFile(info.path[start:], info.mtime_ns / 1e9) for info in infos)

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    listed = []
    for parent, _, names in os.walk(folder, onerror=refuse):
        for path in (Path(parent, name) for name in names):
            try:
                found = path.lstat()
            except FileNotFoundError:
                continue  # another process has removed it
            if stat.S_ISREG(found.st_mode):
                listed.append(ListedFile(path.relative_to(folder).as_posix(), found.st_mtime))
    return sorted(listed)


def _matches(parts: list[str], pattern: list[str]) -> bool:
    """Whether the parts of a path match those of a glob, in which `**` is any number of parts, as the disk's does."""
    if not pattern:
        return not parts
    if pattern[0] == "**" and _matches(parts, pattern[1:]):
        return True
    if not parts or not fnmatchcase(parts[0], pattern[0]) or parts[0].startswith(".") > pattern[0].startswith("."):
        return False
    return _matches(parts[1:], pattern if pattern[0] == "**" else pattern[1:])


def _info(location: str) -> "FileInfo":
    return attempt(lambda: client().get_file_info(key_of(location)), location)


def describe(location: str) -> FileVersion:
    """The size and version of a file: of a local one its time of change, of a remote one its ETag and that time.

    Raises:
        OSError: there is no such file.
    """
    if not is_remote(location):
        found = attempt(lambda: os.stat(location), location)
        return FileVersion(found.st_size, str(found.st_mtime_ns))

    def ask() -> FileVersion:
        with client().open_input_file(key_of(location)) as file:
            about = {name: value.decode() for name, value in file.metadata().items()}
            return FileVersion(file.size(), f"{about.get('ETag', '')} {about.get('Last-Modified', '')}")

    return attempt(ask, location)


# --- reading and writing


def open_file(location: str) -> "pa.NativeFile":
    """A file at random access. Reading from it can fail too: open it inside the action that `attempt` is given."""
    import pyarrow as pa

    return client().open_input_file(key_of(location)) if is_remote(location) else pa.OSFile(location, "rb")


def map_file(location: str) -> "pa.NativeFile":
    """As `open_file`, of a local file without copying what is read."""
    import pyarrow as pa

    return open_file(location) if is_remote(location) else pa.memory_map(location)


def read_bytes(location: str) -> bytes:
    """All of a small file."""

    def read() -> bytes:
        with open_file(location) as file:
            content: bytes = file.read()
            return content

    return attempt(read, location)


def sha256_of(location: str) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    if not is_remote(location):
        return sha256_of_path(Path(location))

    def read() -> str:
        digest = hashlib.sha256()
        with open_file(location) as file:
            while chunk := file.read(COPY_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    return attempt(read, location)


def upload(path: Path, location: str) -> None:
    """Copies a local file to a location. It is there whole, or as it was before."""

    def write(temporary: Path) -> None:
        shutil.copyfile(path, temporary)

    def copy() -> None:
        if not is_remote(location):
            write_atomically(Path(location), write, path.stat().st_size)
            return
        with map_file(str(path)) as source, client().open_output_stream(key_of(location), compression=None) as sink:
            # At once: an exception between two writes would close the file, and it would be there without its end.
            sink.write(source.read_buffer())

    attempt(copy, location)


def download(location: str, path: Path, sha256: str | None = None, num_bytes: int | None = None) -> None:
    """Copies a remote file to a local path, atomically, if its content has the expected sha256.

    `num_bytes`, about how large it will be, is for the message of a full disk.

    Raises:
        ArtifactError: it has another.
        OSError: there is no such file.
    """

    def copy(temporary: Path) -> None:
        digest = hashlib.sha256()
        with open_file(location) as source, open(temporary, "wb") as sink:
            while chunk := source.read(COPY_BYTES):
                digest.update(chunk)
                sink.write(chunk)
        if sha256 not in (None, digest.hexdigest()):
            raise ArtifactError(
                f"{location} is damaged: sha256 {digest.hexdigest()[:12]}, expected {str(sha256)[:12]}",
                "restore the file or run `preprocess` again",
            )

    attempt(lambda: write_atomically(path, copy, num_bytes), location)


def remove(location: str) -> None:
    """Removes a file, if it is there."""
    if not is_remote(location):
        attempt(lambda: Path(location).unlink(missing_ok=True), location)
    elif exists(location):
        attempt(lambda: client().delete_file(key_of(location)), location)


# --- what can go wrong


def attempt(action: Callable[[], ResultT], location: str) -> ResultT:
    """`files.retry` of an action on a local or remote location.

    Raises:
        StorageError: it failed too often in a row, or there is no such bucket, or the store cannot be used.
        SetupError: the store lets nobody in with these credentials.
        OSError: any other, such as that there is no such file.
    """
    try:
        return retry(action, location)
    except OSError as error:
        explained = explain(error, location) if is_remote(location) else None
        if explained is None:
            raise
        raise explained from error


def check_bucket(location: str) -> None:
    """Raises a StorageError when a remote location lies in a bucket that is not there: a file's own error hides it."""
    if is_remote(location):
        bucket = SCHEME + key_of(location).partition("/")[0]
        if not is_folder(bucket):
            raise no_bucket(bucket)
