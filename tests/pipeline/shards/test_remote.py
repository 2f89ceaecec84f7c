"""Copies of datasets in a store: what is brought, what is kept, what is refused."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from s3_store import Store, refuse

from pipeline import storage
from pipeline.errors import ArtifactError, StorageError, UsageError
from pipeline.files import sha256_of, write_text
from pipeline.shards.manifest import INDEX_NAME, STATISTICS_NAME, DatasetIndex, Split, read_index, write_index
from pipeline.shards.remote import (
    begin_publishing,
    fetch_index,
    fetch_on_node,
    fetch_shards,
    is_complete,
    note_fetched,
    publish,
)
from pipeline.shards.vocabularies import VOCABULARIES_FOLDER


@pytest.fixture
def original(dataset: Path, tmp_path: Path) -> Path:
    """A folder with the dataset of the small log, which is published from there."""
    return Path(shutil.copytree(dataset, tmp_path / "original"))


@pytest.fixture
def remote(original: Path, bucket: str, store: Store) -> str:
    location = f"{bucket}/data"
    publish_all(original, location)
    store.forget()
    return location


def publish_all(folder: Path, location: str) -> None:
    begin_publishing(folder, location, goes_on=False)
    for path in folder.glob("*.arrow"):
        storage.upload(path, storage.join(location, path.name))
    publish(folder, location)


def fetch(folder: Path, remote: str, *splits: Split) -> DatasetIndex:
    index = fetch_index(folder, remote)
    fetch_shards(folder, remote, [shard for split in splits for shard in index.of_split(split)])
    return index


def files_in(folder: Path) -> dict[str, str]:
    """The sha256 of the files of a dataset."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def test_a_reader_brings_the_shards_of_its_splits_and_what_lies_beside_them(
    original: Path, remote: str, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    index = fetch(copy, remote, "train", "validation")
    published = files_in(original)
    test_shards = {shard.path for shard in index.of_split("test")}
    assert test_shards
    assert files_in(copy) == {name: sha256 for name, sha256 in published.items() if name not in test_shards}
    fetch(copy, remote, "test")
    assert files_in(copy) == published


def test_a_copy_that_is_there_is_not_brought_again(remote: str, tmp_path: Path, store: Store) -> None:
    fetch(tmp_path / "copy", remote, "train")
    store.forget()
    fetch(tmp_path / "copy", remote, "train")
    assert {request.rpartition("/")[2] for request in store.requests} == {INDEX_NAME}


def test_a_fetch_that_was_interrupted_goes_on_where_it_stopped(
    original: Path, remote: str, tmp_path: Path, store: Store
) -> None:
    copy = tmp_path / "copy"
    store.fail(3, refuse("503 Slow Down", "SlowDown"), "data/validation-")
    with pytest.raises(
        StorageError, match=rf"{remote}/validation-00000\.arrow failed 3 times in a row: HTTP status 503"
    ):
        fetch(copy, remote, "train", "validation", "test")
    store.forget()
    fetch(copy, remote, "train", "validation", "test")
    assert files_in(copy) == files_in(original)
    assert not [request for request in store.requests if "data/train-" in request or "data/vocabularies" in request]


def test_a_shard_with_a_flipped_bit_in_the_store_is_refused_and_one_on_the_disk_brought_anew(
    original: Path, remote: str, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shard = fetch(copy, remote, "train").of_split("train")[0]
    damaged = bytearray((copy / shard.path).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (copy / shard.path).write_bytes(damaged)
    fetch(copy, remote, "train")
    assert sha256_of(copy / shard.path) == shard.sha256

    storage.remove(f"{remote}/{shard.path}")
    (copy / shard.path).unlink()
    with pytest.raises(ArtifactError, match=rf"shard {remote}/{shard.path} is not there"):
        fetch(copy, remote, "train")
    (tmp_path / "damaged").write_bytes(damaged)
    storage.upload(tmp_path / "damaged", f"{remote}/{shard.path}")
    with pytest.raises(
        ArtifactError, match=rf"{remote}/{shard.path} is damaged: sha256 .*, expected {shard.sha256[:12]}"
    ):
        fetch(copy, remote, "train")
    assert not (copy / shard.path).exists()


def test_a_copy_follows_what_was_published_later(original: Path, remote: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    before = fetch(copy, remote, "train", "test")
    (test_shard,) = before.of_split("test")
    # The test split is gone, and a vocabulary too.
    write_index(original, before.model_copy(update={"shards": tuple(s for s in before.shards if s.split != "test")}))
    (original / test_shard.path).unlink()
    (original / VOCABULARIES_FOLDER / "hour.arrow").unlink()
    write_text(original / STATISTICS_NAME, "{}")
    publish_all(original, remote)
    assert fetch(copy, remote, "train", "validation") == read_index(original)
    assert files_in(copy) == files_in(original)


def test_a_dataset_that_is_no_copy_is_not_replaced_by_one(
    dataset: Path, remote: str, bucket: str, tmp_path: Path
) -> None:
    local = Path(shutil.copytree(dataset, tmp_path / "local"))
    index = read_index(local)
    write_index(local, index.model_copy(update={"time_range": None}))
    before = files_in(local)
    with pytest.raises(UsageError, match=rf"^{local} holds a dataset that is no copy of {remote}\. Choose another"):
        fetch_index(local, remote)
    publish_all(local, f"{bucket}/other")
    with pytest.raises(UsageError, match=f"is no copy of {remote}"):
        fetch_index(local, remote)
    assert files_in(local) == before


def test_a_place_without_an_index_holds_no_dataset(remote: str, tmp_path: Path) -> None:
    assert is_complete(tmp_path, remote)
    storage.remove(f"{remote}/{INDEX_NAME}")
    assert not is_complete(tmp_path, remote)
    with pytest.raises(ArtifactError, match=rf"{remote} holds no complete dataset \(index\.json is not there\)\. Run"):
        fetch_index(tmp_path / "copy", remote)
    with pytest.raises(StorageError, match="there is no bucket 'not-there'"):
        fetch_index(tmp_path / "copy", "s3://not-there/data")
    assert not (tmp_path / "copy").exists()


def test_of_the_processes_on_one_disk_one_brings_the_dataset(
    original: Path, remote: str, tmp_path: Path, store: Store
) -> None:
    copy = tmp_path / "copy"
    shard = read_index(original).of_split("train")[0].path
    with ThreadPoolExecutor(4) as ranks:
        for ended in [ranks.submit(fetch_on_node, copy, remote, ("train",), "attempt 1") for _ in range(4)]:
            ended.result()
    assert sum(request == f"HEAD /{remote.removeprefix('s3://')}/{shard}" for request in store.requests) == 1
    assert (copy / shard).read_bytes() == (original / shard).read_bytes()
    # On the driver's own disk nothing is looked at again; on another one, and in the next attempt, everything is.
    store.forget()
    note_fetched(original, "attempt 2")
    fetch_on_node(original, remote, ("train",), "attempt 2")
    assert store.requests == []
    (copy / shard).unlink()
    fetch_on_node(copy, remote, ("train",), "attempt 2")
    assert (copy / shard).exists()
