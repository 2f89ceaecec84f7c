"""Datasets that are kept in a store: published by preprocessing, and copied by whoever reads them.

A dataset at `s3://bucket/folder` is the same files as in a folder. Publishing removes the index first; then each shard
is uploaded by the task that wrote it, and when all are, the other files and last the index, without which there is no
dataset.

Fetching compares the index with that of the local copy. If they differ, it brings vocabularies and statistics, and the
index last. Then it brings the shards that are to be read: one that lies there with the right content stays, and another
one takes its place only if its content has the sha256 of the index. So an interrupted fetch goes on where it stopped.

A file in the local folder, `.copy_of`, says of which place it is a copy; a dataset that is none is not replaced by one.
"""

import fcntl
import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from pipeline import storage
from pipeline.errors import ArtifactError, UsageError
from pipeline.executor import InProcessExecutor, Progress
from pipeline.files import retry, sha256_of, write_text
from pipeline.shards.manifest import (
    INDEX_NAME,
    SHARD_PATTERNS,
    SHARD_REMEDY,
    SIDE_PATTERNS,
    STATISTICS_NAME,
    DatasetIndex,
    ShardEntry,
    Split,
    read_index,
    verify_shards,
)
from pipeline.shards.vocabularies import VOCABULARIES_FOLDER

COPY_OF_NAME = ".copy_of"
FETCHED_NAME = ".fetched"
LOCK_NAME = ".lock"
FILES_AT_ONCE = 8


def is_complete(dataset_dir: Path, remote: str | None) -> bool:
    """Whether there is a dataset: in the folder or, if it is kept in a store, there."""
    if remote is None:
        return (dataset_dir / INDEX_NAME).exists()
    return storage.exists(storage.join(remote, INDEX_NAME))


# --- publishing


def begin_publishing(dataset_dir: Path, remote: str | None, *, goes_on: bool) -> None:
    """Removes an earlier dataset from the store, the index first, and notes what the folder becomes a copy of.

    An attempt that goes on where another one stopped keeps what that one has uploaded.
    """
    if remote is None:
        (dataset_dir / COPY_OF_NAME).unlink(missing_ok=True)
        return
    storage.remove(storage.join(remote, INDEX_NAME))
    if goes_on:
        return
    patterns = (*SHARD_PATTERNS, *SIDE_PATTERNS)
    ours = [file for file in storage.find_files(remote) if any(fnmatch(storage.name_of(file), one) for one in patterns)]
    for file in [*ours, *storage.find_files(storage.join(remote, VOCABULARIES_FOLDER))]:
        storage.remove(file)
    write_text(dataset_dir / COPY_OF_NAME, remote)


def publish(dataset_dir: Path, remote: str | None) -> None:
    """Uploads the shards that are not there yet, then what lies beside them, and the index last."""
    if remote is None:
        return
    there = set(storage.find_files(remote))
    for shard in read_index(dataset_dir).shards:
        if storage.join(remote, shard.path) not in there:
            storage.upload(dataset_dir / shard.path, storage.join(remote, shard.path))
    for path in [*_glob(dataset_dir, *SIDE_PATTERNS, f"{VOCABULARIES_FOLDER}/*"), dataset_dir / INDEX_NAME]:
        storage.upload(path, storage.join(remote, path.relative_to(dataset_dir).as_posix()))


def _glob(folder: Path, *patterns: str) -> list[Path]:
    return [path for pattern in patterns for path in sorted(folder.glob(pattern))]


# --- fetching


def fetch_index(dataset_dir: Path, remote: str | None) -> DatasetIndex:
    """The checked index of a dataset; of one in a store after its vocabularies and statistics were brought.

    Raises:
        ArtifactError: there is no dataset, or its index is damaged.
        UsageError: the folder holds a dataset that is no copy of this one.
    """
    if remote is None:
        return read_index(dataset_dir)
    path = dataset_dir / INDEX_NAME
    try:
        content = storage.read_bytes(storage.join(remote, INDEX_NAME))
    except FileNotFoundError as error:
        storage.check_bucket(remote)
        raise ArtifactError(
            f"{remote} holds no complete dataset ({INDEX_NAME} is not there)", "run `preprocess`"
        ) from error
    if path.exists() and retry(path.read_bytes, path) == content:
        return read_index(dataset_dir)
    _fetch_side_files(dataset_dir, remote)
    write_text(path, content.decode(errors="replace"))
    index = read_index(dataset_dir)
    listed = {shard.path for shard in index.shards}
    for path in _glob(dataset_dir, *SHARD_PATTERNS):
        if path.name not in listed:
            path.unlink()
    return index


def _fetch_side_files(dataset_dir: Path, remote: str) -> None:
    """Removes the index and the vocabularies of an earlier copy, and brings all but the index and the shards."""
    copy_of, folder = dataset_dir / COPY_OF_NAME, dataset_dir / VOCABULARIES_FOLDER
    if (dataset_dir / INDEX_NAME).exists() and not (copy_of.is_file() and copy_of.read_text() == remote):
        raise UsageError(
            f"{dataset_dir} holds a dataset that is no copy of {remote}",
            "choose another `workspace`, or remove that one",
        )
    write_text(copy_of, remote)
    (dataset_dir / INDEX_NAME).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    storage.download(storage.join(remote, STATISTICS_NAME), dataset_dir / STATISTICS_NAME)
    for file in storage.find_files(storage.join(remote, VOCABULARIES_FOLDER)):
        storage.download(file, folder / storage.name_of(file))


def fetch_shards(
    dataset_dir: Path, remote: str | None, shards: Sequence[ShardEntry], progress: Progress | None = None
) -> None:
    """Checks the content of some shards; of a dataset in a store it brings those that the folder has not like that.

    Raises:
        ArtifactError: a shard is missing or damaged, in the store if the dataset is kept there.
    """
    if remote is None:
        verify_shards(dataset_dir, list(shards))
        return
    num_rows = 0
    if progress:
        progress("shards fetched", 0, len(shards), 0, "rows")
    fetched = InProcessExecutor(FILES_AT_ONCE).map(partial(_fetch_shard, dataset_dir, remote), shards)
    for done, shard in enumerate(fetched, start=1):
        num_rows += shard.rows
        if progress:
            progress("shards fetched", done, len(shards), num_rows, "rows")


def _fetch_shard(dataset_dir: Path, remote: str, shard: ShardEntry) -> ShardEntry:
    path, location = dataset_dir / shard.path, storage.join(remote, shard.path)
    if not path.is_file() or path.stat().st_size != shard.bytes or sha256_of(path) != shard.sha256:
        try:
            storage.download(location, path, shard.sha256, shard.bytes)
        except FileNotFoundError as error:
            raise ArtifactError(f"shard {location} is not there", SHARD_REMEDY) from error
    return shard


# --- on the nodes of a cluster


def note_fetched(dataset_dir: Path, note: str) -> None:
    """Leaves a note in the folder: whoever finds it there sees the same files as who left it."""
    write_text(dataset_dir / FETCHED_NAME, note)


def fetch_on_node(dataset_dir: Path, remote: str, splits: Sequence[Split], note: str) -> None:
    """Fetches a dataset if the folder has not the note: of several processes on it, the first one does."""
    dataset_dir.mkdir(parents=True, exist_ok=True)
    fetched = dataset_dir / FETCHED_NAME
    with open(dataset_dir / LOCK_NAME, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if fetched.is_file() and fetched.read_text() == note:
            return
        index = fetch_index(dataset_dir, remote)
        fetch_shards(dataset_dir, remote, [shard for split in splits for shard in index.of_split(split)])
        note_fetched(dataset_dir, note)
