"""Shards on disk: written the same each time, checked, and refused when missing, damaged or of other columns."""

import errno
import random
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from small_shards import TABLE_ROWS, make_schema, make_table, open_shards, write_whole_dataset

from pipeline.errors import ArtifactError, StorageError
from pipeline.files import sha256_of
from pipeline.preprocess.config import Compression
from pipeline.shards.manifest import DatasetIndex, id_type, shard_schema, verify_shards
from pipeline.shards.writer import write_shard


def test_a_shard_is_the_same_bytes_each_time_and_holds_what_was_written(tmp_path: Path) -> None:
    table = make_table(5, 50)
    first = write_shard(tmp_path / "a.arrow", table, "test")
    second = write_shard(tmp_path / "b.arrow", pa.concat_tables([table.slice(0, 20), table.slice(20)]), "test")
    assert (first.rows, first.split, first.path) == (50, "test", "a.arrow")
    assert (tmp_path / "a.arrow").read_bytes() == (tmp_path / "b.arrow").read_bytes()
    assert first.sha256 == second.sha256
    assert first.bytes == (tmp_path / "a.arrow").stat().st_size
    with pa.ipc.open_file(tmp_path / "a.arrow") as reader:
        assert reader.read_all().equals(table)


def test_a_shard_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write_shard(tmp_path / "a.arrow", make_table(0, 3), "train")
    assert list(tmp_path.iterdir()) == []


def test_ids_are_32_bits_wide_up_to_the_largest_table_that_fits() -> None:
    assert id_type(2**31) == pa.int32()
    assert id_type(2**31 + 1) == pa.int64()
    schema = shard_schema(make_schema(), TABLE_ROWS, {"user": pa.string()})
    assert schema.names == ["sparse_user", "sparse_tags", "dense", "labels", "key_user"]
    assert [schema.field(0).type, schema.field(1).type] == [pa.int32(), pa.list_(pa.int64())]


@pytest.fixture
def written(tmp_path: Path) -> DatasetIndex:
    return write_whole_dataset(tmp_path)


def test_untouched_shards_pass_their_check(tmp_path: Path, written: DatasetIndex) -> None:
    verify_shards(tmp_path, list(written.shards))
    assert sum(table.num_rows for table in open_shards(tmp_path, written.shards).batches(0)) == 42


def test_a_missing_shard_is_named(tmp_path: Path, written: DatasetIndex) -> None:
    (tmp_path / written.shards[1].path).unlink()
    for check in (lambda: verify_shards(tmp_path, list(written.shards)), lambda: open_shards(tmp_path, written.shards)):
        with pytest.raises(ArtifactError, match=written.shards[1].path):
            check()


def test_the_content_of_shards_is_checked_at_the_same_time(
    tmp_path: Path, written: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(2)

    def meet_another(path: Path) -> str:
        together.wait(20)
        return sha256_of(path)

    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("pipeline.shards.manifest.sha256_of", meet_another)
    verify_shards(tmp_path, list(written.shards[:2]))


def test_of_damaged_shards_the_first_of_the_index_is_named_though_a_later_one_is_found_before(
    tmp_path: Path, written: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = threading.Event()

    def find_the_second_before(path: Path) -> str:
        if path.name == written.shards[0].path:
            found.wait(20)
        else:
            found.set()
        return "0" * 64

    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("pipeline.shards.manifest.sha256_of", find_the_second_before)
    with pytest.raises(ArtifactError, match=rf"{written.shards[0].path} is damaged: sha256 000000000000, expected"):
        verify_shards(tmp_path, list(written.shards))
    assert found.is_set()


def test_the_reader_names_a_shard_with_another_number_of_rows(tmp_path: Path, written: DatasetIndex) -> None:
    shards = (written.shards[0], written.shards[1].model_copy(update={"rows": 13}))
    with pytest.raises(ArtifactError, match=f"{written.shards[1].path} has 12 rows, expected 13"):
        open_shards(tmp_path, shards)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("sparse_user", "the column sparse_user: int64, where train-00000.arrow has sparse_user: int32"),
        ("key_extra", "the column key_extra: int64, where train-00000.arrow has none"),
    ],
)
def test_a_shard_with_other_columns_than_the_first_one_is_named(
    tmp_path: Path, written: DatasetIndex, column: str, said: str
) -> None:
    columns = {name: make_table(0, 12)[name] for name in make_table(0, 12).column_names}
    table = pa.table(columns | {column: pa.array([2**62] * 12)})
    shard = write_shard(tmp_path / "other.arrow", table, "train")
    with pytest.raises(ArtifactError) as caught:
        open_shards(tmp_path, (written.shards[0], shard))
    assert f"shard {tmp_path}/other.arrow has {said}. " in str(caught.value)


def test_a_shard_is_opened_though_the_storage_falters(
    tmp_path: Path, written: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = pa.memory_map, [OSError(errno.EIO, "i/o error"), OSError(errno.ESTALE, "stale handle")]

    def falter(path: str) -> Any:
        if failures:
            raise failures.pop()
        return real(path)

    monkeypatch.setattr("pipeline.files.FIRST_WAIT_SECONDS", 0.0)
    monkeypatch.setattr("pyarrow.memory_map", falter)
    assert sum(table.num_rows for table in open_shards(tmp_path, written.shards).batches(0)) == 42
    assert failures == []
    failures += [OSError(errno.EIO, "i/o error")] * 3
    with pytest.raises(StorageError, match=f"{written.shards[0].path} failed 3 times in a row: Input/output error"):
        open_shards(tmp_path, written.shards)


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_damaged_shard_is_read_or_refused_and_never_crashes(tmp_path: Path, compression: Compression) -> None:
    """The reader trusts no byte of the file's own description, even where the check of its sha256 was skipped."""
    draw, shard = random.Random(1), write_shard(tmp_path / "train-0.arrow", make_table(0, 12), "train", compression)
    content, messages = (tmp_path / shard.path).read_bytes(), []
    places = range(0, len(content), 1 if compression == "none" else 4)
    flips = [(place, 1 << bit) for place in places for bit in draw.sample(range(8), 2)]
    for place, bit in flips:
        damaged = bytearray(content)
        damaged[place] ^= bit
        (tmp_path / shard.path).write_bytes(damaged)
        try:
            reader = open_shards(tmp_path, (shard,))
            if compression == "zstd":  # another one is read when it is opened
                reader._shards[0].slice(0, 12)
        except ArtifactError as error:
            messages.append(str(error))
    assert 100 < len(messages) < len(flips)
    assert all(shard.path in message and "\n" not in message for message in messages)


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("kept_fraction", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_shard_is_not_opened(tmp_path: Path, kept_fraction: float, compression: Compression) -> None:
    shard = write_shard(tmp_path / "train-0.arrow", make_table(0, 12), "train", compression)
    content = (tmp_path / shard.path).read_bytes()
    (tmp_path / shard.path).write_bytes(content[: int(kept_fraction * len(content))])
    with pytest.raises(ArtifactError, match=f"shard .*{shard.path} cannot be read: "):
        open_shards(tmp_path, (shard,))
