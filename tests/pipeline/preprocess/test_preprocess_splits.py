"""The whole stage: which rows are in which split, and how they are divided into shards."""

from pathlib import Path

import pyarrow as pa
import pytest
from small_logs import NUM_ROWS, fails, log_columns, prepare, read_split, run

from pipeline.errors import ConfigError, DataError
from pipeline.run_config import RunConfig
from pipeline.shards.assignment import SampleOrder
from pipeline.shards.manifest import SPLITS, DatasetIndex, verify_shards
from pipeline.shards.reader import ShardReader


def test_hash_and_order_splits_cover_every_row(tmp_path: Path) -> None:
    for split in (
        {"kind": "order", "validation_fraction": 0.2, "test_fraction": 0.25},
        {"kind": "hash", "column": "minute", "validation_fraction": 0.3, "test_fraction": 0.3},
    ):
        config = prepare(tmp_path, split=split)
        index = run(config, overwrite=True)
        times = {
            name: read_split(config, index, name)["key_time"].to_pylist() for name in ("train", "validation", "test")
        }
        assert sorted(time for values in times.values() for time in values) == list(range(NUM_ROWS))
        if split["kind"] == "order":
            assert times["validation"] == [11, 12, 13, 14]


def test_a_column_can_say_the_split(tmp_path: Path) -> None:
    split = {"kind": "column", "column": "city", "validation": ["york"], "test": ["hull", "nowhere"]}
    columns = log_columns() | {"city": [["york", "bath", "hull"][row % 3] for row in range(NUM_ROWS)]}
    config = prepare(tmp_path, columns, split=split)
    index = run(config)
    for name, first in zip(SPLITS, (1, 0, 2), strict=True):
        assert read_split(config, index, name)["key_time"].to_pylist() == list(range(first, NUM_ROWS, 3))
    fails(
        tmp_path / "none",
        DataError,
        "the test split has no row .*column 'city'",
        columns,
        split=split | {"test": ["x"]},
    )
    fails(tmp_path / "null", DataError, "the split column 'city' is null in .*row 1", log_columns(), split=split)
    with pytest.raises(ConfigError, match="validation and test both have 'york'"):
        prepare(tmp_path / "both", split=split | {"test": ["york"]})
    numbers = {"kind": "column", "column": "minute", "validation": [14, 15], "test": [16]}
    assert run(prepare(tmp_path / "numbers", split=numbers)).num_rows("validation") == 2


def times_of(config: RunConfig, index: DatasetIndex) -> list[list[int]]:
    shards = []
    for shard in index.of_split("train"):
        with pa.ipc.open_file(config.dataset_dir / shard.path) as reader:
            shards.append(reader.read_all()["key_time"].to_pylist())
    return shards


def test_shards_are_equal_within_a_row_and_in_the_order_of_the_log(tmp_path: Path) -> None:
    config = prepare(tmp_path, rows_per_partition=3, rows_per_shard=5)
    assert times_of(config, run(config)) == [[0, 1, 2, 3], [4, 5, 6, 7, 8], [9, 10, 11, 12, 13]]


def test_compressed_shards_hold_the_same_rows_and_the_dataset_can_be_kept_in_another_folder(tmp_path: Path) -> None:
    plain = run(prepare(tmp_path / "plain", rows_per_shard=8))
    config = prepare(tmp_path / "zstd", rows_per_shard=8, compression="zstd")
    config = config.model_copy(update={"dataset": str(tmp_path / "elsewhere")})
    index = run(config)
    assert config.dataset_dir == tmp_path / "elsewhere"
    verify_shards(tmp_path / "elsewhere", list(index.shards))
    assert not (config.workspace_dir / "dataset").exists()
    for split in SPLITS:
        expected = read_split(prepare(tmp_path / "plain"), plain, split)
        assert read_split(config, index, split).equals(expected)
        shards = index.of_split(split)
        order = SampleOrder(tuple(shard.rows for shard in shards), 1, 8, 4, 1, 0, shuffle=False)
        batches = list(ShardReader(config.dataset_dir, shards, order).batches(0))
        assert pa.concat_tables(batches).equals(expected)


def test_shuffled_shards_hold_rows_of_every_partition_the_same_ones_each_time(tmp_path: Path) -> None:
    split = {"kind": "order", "validation_fraction": 0.1, "test_fraction": 0.1}
    columns = {name: values * 20 for name, values in log_columns().items()} | {"minute": list(range(400))}
    config = prepare(tmp_path, columns, rows_per_partition=40, rows_per_shard=80, shuffle=True, split=split)
    found = times_of(config, run(config))
    assert sorted(time for shard in found for time in shard) == list(range(320))
    for shard in found:
        assert 76 <= len(shard) <= 84
        assert {time // 40 for time in shard} == set(range(8))
        assert shard != sorted(shard)
    assert times_of(config, run(config, overwrite=True)) == found
