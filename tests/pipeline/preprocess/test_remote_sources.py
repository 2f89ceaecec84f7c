"""Raw tables in a store: read as from a disk, no more of them than is asked for, and once more after a fault."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_store import Store, refuse
from small_logs import write_rows

from pipeline import storage
from pipeline.errors import DataError, StorageError
from pipeline.preprocess.config import SourceConfig
from pipeline.preprocess.raw_files.formats import read_column_names
from pipeline.preprocess.raw_files.sources import Partition, list_files, plan_partitions, read_partition, read_table

ROWS = {"user": list(range(1000)), "tag": [f"tag {n % 7}" for n in range(1000)], "rate": [n / 8 for n in range(1000)]}
WIDE_ROWS, WIDE_GROUP = 40_000, 5_000


def in_store(path: Path, bucket: str) -> SourceConfig:
    """A source that is a copy of a file in the store."""
    storage.upload(path, f"{bucket}/log/{path.name}")
    return SourceConfig(path=f"{bucket}/log/{path.name}")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.csv", "a.jsonl", "a.csv.gz", "a.jsonl.gz"])
def test_a_file_in_a_store_is_cut_and_read_as_on_a_disk(tmp_path: Path, bucket: str, name: str) -> None:
    path = write_rows(tmp_path / name, ROWS, group_rows=100)
    local, remote = SourceConfig(path=str(path)), in_store(path, bucket)
    assert read_column_names(remote, remote.path) == read_column_names(local, str(path))
    parts = {source.path: plan_partitions(source, 300) for source in (local, remote)}
    assert [part.first_row for part in parts[remote.path]] == [part.first_row for part in parts[local.path]]
    for ours, theirs in zip(parts[remote.path], parts[local.path], strict=True):
        assert read_partition(ours, ["tag", "user"]).equals(read_partition(theirs, ["tag", "user"]))
    assert read_table(remote, ["rate"]).equals(read_table(local, ["rate"]))


def test_a_folder_in_a_store_has_the_files_of_one_on_a_disk(tmp_path: Path, bucket: str) -> None:
    for name in ("b.parquet", "a.parquet", "_a.parquet", ".a.parquet", "a.txt", "more/c.parquet"):
        in_store(write_rows(tmp_path / "log" / name, {"user": [1]}), bucket)
    found = list_files(SourceConfig(path=f"{bucket}/log"))
    assert found == [f"{bucket}/log/a.parquet", f"{bucket}/log/b.parquet", f"{bucket}/log/c.parquet"]
    with pytest.raises(DataError, match="tells no format"):
        list_files(SourceConfig(path=f"{bucket}/log/a.*"))
    with pytest.raises(StorageError, match="there is no bucket 'not-there'"):
        list_files(SourceConfig(path="s3://not-there/log"))
    with pytest.raises(DataError, match=r"there is no file, folder or match for s3://.*/log/d\.parquet"):
        list_files(SourceConfig(path=f"{bucket}/log/d.parquet"))


@pytest.mark.parametrize("name", ["wide.parquet", "wide.arrow"])
def test_no_more_is_read_than_some_columns_of_some_groups(tmp_path: Path, bucket: str, store: Store, name: str) -> None:
    draw = np.random.default_rng(0)
    columns: dict[str, Any] = {f"c{n}": draw.integers(0, 2**62, WIDE_ROWS) for n in range(10)}
    path = write_rows(tmp_path / name, columns, group_rows=WIDE_GROUP)
    source = in_store(path, bucket)
    store.forget()
    parts = plan_partitions(source, WIDE_GROUP)
    table = read_partition(parts[3], ["c7", "c2"])
    assert np.array_equal(table["c2"], columns["c2"][3 * WIDE_GROUP : 4 * WIDE_GROUP])
    # Two columns of ten, and one group of eight, are 2.5 %; and the footer, or a column to count the rows of batches.
    assert store.num_bytes < 0.15 * path.stat().st_size


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.csv", "a.jsonl"])
def test_reading_goes_on_after_two_faults_and_stops_at_the_third(
    tmp_path: Path, bucket: str, store: Store, name: str
) -> None:
    source = in_store(write_rows(tmp_path / name, ROWS, group_rows=100), bucket)
    (first, *_) = plan_partitions(source, 300)
    expected = read_partition(first, ["tag"])
    for request in ("HEAD", "GET"):
        store.fail(2, refuse("503 Slow Down", "SlowDown"), request)
        assert read_partition(first, ["tag"]).equals(expected)
        store.fail(3, refuse("503 Slow Down", "SlowDown"), request)
        with pytest.raises(StorageError, match=rf"the storage under {source.path} failed 3 times in a row: "):
            read_partition(first, ["tag"])
    store.forget()


def test_a_damaged_file_in_a_store_is_no_fault_that_passes(tmp_path: Path, bucket: str, store: Store) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table(ROWS), path)
    path.write_bytes(path.read_bytes()[:-20])
    source = in_store(path, bucket)
    store.forget()
    with pytest.raises(DataError, match=rf"{source.path} cannot be read: "):
        read_partition(Partition(source, source.path, groups=(0,)), ["user"])
    assert len(store.requests) == 2
