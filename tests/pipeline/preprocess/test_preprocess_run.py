"""The whole stage on a small log: what it writes by hand, every format and executor alike, each mistake by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_logs import (
    NUM_ROWS,
    every_kind_section,
    log_columns,
    make_config,
    read_split,
    run,
    schema_section,
    write_rows,
)

from jobs.ray_executor import RayExecutor
from pipeline.errors import ArtifactError, ConfigError, DataError, UsageError
from pipeline.executor import InProcessExecutor
from pipeline.files import sha256_of
from pipeline.preprocess.log import RawLog
from pipeline.preprocess.run import preprocess
from pipeline.preprocess.transform import FittedTransform
from pipeline.run_config import RunConfig
from pipeline.shards.assignment import SampleOrder
from pipeline.shards.manifest import SPLITS, DatasetIndex, read_index, verify_shards
from pipeline.shards.reader import ShardReader
from pipeline.shards.vocabularies import digest_vocabulary


def prepare(folder: Path, columns: dict[str, Any] | None = None, **sections: Any) -> RunConfig:
    write_rows(folder / "log.parquet", columns or log_columns())
    return make_config(folder, **sections)


def content_of(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): sha256_of(file) for file in sorted(folder.rglob("*")) if file.is_file()}


def statistics(config: RunConfig) -> Any:
    return json.loads((config.dataset_dir / "statistics.json").read_bytes())


def vocabulary(config: RunConfig, table: str) -> dict[str, int]:
    with pa.ipc.open_file(config.dataset_dir / "vocabularies" / f"{table}.arrow") as reader:
        columns = reader.read_all().to_pydict()
    return dict(zip(columns["value"], columns["count"], strict=True))


def without(column: str, row: int, value: Any) -> dict[str, list[Any]]:
    columns = log_columns()
    columns[column][row] = value
    return columns


def test_a_small_log_is_encoded_as_by_hand(tmp_path: Path) -> None:
    config = prepare(tmp_path, rows_per_shard=8)
    index = run(config)
    assert read_index(config.dataset_dir) == index
    verify_shards(config.dataset_dir, list(index.shards))
    assert [(shard.path, shard.rows) for shard in index.shards] == [
        ("train-00000.arrow", 7),
        ("train-00001.arrow", 7),
        ("validation-00000.arrow", 3),
        ("test-00000.arrow", 3),
    ]
    # Rows 0-13: items 1, 0, 2 at odd rows; each even row has an item of its own, which min_count leaves out.
    assert vocabulary(config, "item") == {"1": 3, "0": 2, "2": 2}
    assert vocabulary(config, "tags") == {"red": 13, "blue": 7}
    assert index.table_rows == {"item": 5, "city": 5, "tags": 4, "user_bucket": 10}
    assert index.time_range == ("0", "19")
    test = read_split(config, index, "test")
    assert test.column_names[:4] == ["sparse_item", "sparse_city", "sparse_tags", "sparse_user_bucket"]
    # In the order of their hashes: items 1, 2, 0 and tags blue, red.
    assert test["sparse_item"].to_pylist() == [3, 0, 2]
    assert test["sparse_tags"].to_pylist() == [[3, 2], [3], [3, 2]]
    assert test["labels"].to_pylist() == [[1.0, 1.0, 17.0], [0.0, 0.0, 18.0], [1.0, 0.0, 19.0]]
    assert test["key_user"].to_pylist() == [1, 2, 3]
    # Prices of rows 0-13 without row 3: mean 7.269, deviation 4.060.
    assert [round(value, 3) for value in test["dense"].to_pylist()[0]] == [2.52, 0.0]


def test_label_statistics_are_over_the_rows_where_a_task_is_defined(tmp_path: Path) -> None:
    labels = run(prepare(tmp_path)).label_statistics
    assert (labels["click"].rows, labels["click"].mean) == (14, 0.5)
    assert (labels["like"].rows, labels["like"].mean) == (7, 4 / 7)
    assert labels["dwell"].rows == 13


def test_statistics_tell_what_became_of_the_log(tmp_path: Path) -> None:
    write_rows(tmp_path / "users.csv", {"user": [0, 1, 2], "age": [10, 20, 30]})
    schema = schema_section()
    schema["features"].append({"name": "age", "kind": "numeric"})
    columns = log_columns()
    columns["price"][18] = float("inf")
    config = prepare(tmp_path, columns, schema=schema, tables=[{"path": "users.csv", "key": "user"}])
    run(config)
    found = statistics(config)
    assert found["rows"] == {"train": 14, "validation": 3, "test": 3}
    assert found["features"]["item"]["unseen"] == {"train": 7, "validation": 2, "test": 1}
    assert found["features"]["item"]["unseen_fraction"]["train"] == 0.5
    assert found["features"]["city"]["nulls"] == {"train": 2, "validation": 1, "test": 0}
    assert found["features"]["tags"]["null_lists"] == {"train": 1, "validation": 0, "test": 0}
    assert found["features"]["price"]["non_finite"] == {"train": 0, "validation": 0, "test": 1}
    assert found["features"]["age"]["nulls"] == {"train": 3, "validation": 1, "test": 1}
    item = found["tables"]["item"]
    assert (item["rows"], item["distinct_values"], item["kept_values"]) == (5, 10, 3)
    assert item["top_values"][:2] == [["1", 3], ["0", 2]]
    assert found["features"]["price"]["profile"]["train"]["nulls"] == 1
    assert found["features"]["tags"]["lengths"]["train"]["lists"] == 14
    assert found["quarantine"] == {"rows": 20, "quarantined": 0, "reasons": []}
    assert found["tables"]["user_bucket"] == {"rows": 10}
    (table,) = found["joined_tables"].values()
    assert table["missing_keys"] == {"train": 3, "validation": 1, "test": 1}
    assert found["tasks"]["like"]["rows"] == {"train": 7, "validation": 1, "test": 2}
    assert found["tasks"]["dwell"]["nulls"]["train"] == 1


@pytest.mark.parametrize("log", ["log.arrow", "log.csv", "log.csv.gz", "log.jsonl", "parts"])
def test_each_format_gives_the_same_rows(tmp_path: Path, log: str) -> None:
    expected_config = prepare(tmp_path / "expected")
    expected = run(expected_config)
    columns = log_columns()
    if log == "parts":
        for part in range(2):
            rows = slice(part * 10, part * 10 + 10)
            write_rows(tmp_path / log / f"{part}.csv", {name: values[rows] for name, values in columns.items()})
    else:
        write_rows(tmp_path / log, columns)
    config = make_config(tmp_path, log)
    index = run(config)
    assert vocabulary(config, "item") == vocabulary(expected_config, "item")
    for split in ("train", "validation", "test"):
        found = read_split(config, index, split)
        wanted = read_split(expected_config, expected, split)
        assert found.drop_columns("dense").equals(wanted.drop_columns("dense"))
        # A text file is one partition, and sums over other partitions round differently.
        for mine, theirs in zip(found["dense"].to_pylist(), wanted["dense"].to_pylist(), strict=True):
            assert mine == pytest.approx(theirs, abs=1e-6)


def test_a_second_run_writes_the_same_bytes(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    run(config)
    first = content_of(config.dataset_dir)
    run(config, overwrite=True)
    assert content_of(config.dataset_dir) == first
    assert sorted(first)[:2] == ["index.json", "statistics.json"]


def test_threads_write_the_bytes_of_one(tmp_path: Path) -> None:
    config = prepare(tmp_path, rows_per_partition=2, rows_per_shard=3, schema=every_kind_section())
    run(config)
    expected = content_of(config.dataset_dir)
    preprocess(config, InProcessExecutor(3), overwrite=True)
    assert content_of(config.dataset_dir) == expected


class Interrupted(InProcessExecutor):
    """Is killed after so many items."""

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.num_items = num_items

    def map(self, function: Any, items: Any) -> Any:
        for result in super().map(function, items):
            self.num_items -= 1
            if self.num_items < 0:
                raise KeyboardInterrupt
            yield result


def test_a_restart_reads_only_the_partitions_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "log.parquet", log_columns(), group_rows=2)
    config = make_config(tmp_path, rows_per_partition=2)
    run(config)
    expected = content_of(config.dataset_dir)
    num_read = 0
    real = RawLog.read

    def read(self: RawLog, part: Any) -> Any:
        nonlocal num_read
        num_read += 1
        return real(self, part)

    monkeypatch.setattr(RawLog, "read", read)
    for num_items, num_left in ((4, 10 - 5), (12, 0), (18, 0)):
        shutil.rmtree(config.dataset_dir)
        with pytest.raises(KeyboardInterrupt):
            preprocess(config, Interrupted(num_items))
        num_read = 0
        run(config)
        assert num_read == num_left
        assert content_of(config.dataset_dir) == expected


def test_what_was_staged_of_another_log_is_not_used(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        preprocess(config, Interrupted(1))
    columns = log_columns()
    columns["click"] = [1 - value for value in columns["click"]]
    config = prepare(tmp_path, columns | {"like": [0] * NUM_ROWS, "dwell": [1.0] * NUM_ROWS})
    index = run(config)
    assert index.label_statistics["dwell"].mean == 1.0


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


@pytest.mark.ray
def test_ray_workers_write_the_bytes_of_one_process(tmp_path: Path) -> None:
    config = prepare(tmp_path, rows_per_partition=3, schema=every_kind_section())
    run(config)
    expected = content_of(config.dataset_dir)
    seen: list[tuple[Any, ...]] = []
    with RayExecutor(address=None, num_cpus=2) as executor:
        preprocess(config, executor, lambda *call: seen.append(call), overwrite=True)
        assert content_of(config.dataset_dir) == expected
        write_rows(tmp_path / "log.parquet", without("click", 18, 2))
        with pytest.raises(DataError, match=r"task 'click': label 2 in .*log\.parquet, row 19"):
            preprocess(config, executor, overwrite=True)
    assert [call[:3] for call in seen[:4]] == [("partitions read", done, 3) for done in range(4)]


def test_statistics_come_from_training_rows_only(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    before = run(config)
    columns = log_columns()
    for row in range(14, NUM_ROWS):
        columns["item"][row], columns["city"][row], columns["price"][row] = 555, "oslo", 1e6
    write_rows(tmp_path / "log.parquet", columns)
    after = run(config, overwrite=True)
    assert after.vocabulary_version == before.vocabulary_version
    assert after.label_statistics == before.label_statistics
    assert [s.sha256 for s in after.of_split("train")] == [s.sha256 for s in before.of_split("train")]
    assert read_split(config, after, "test")["sparse_city"].to_pylist() == [0, 0, 0]


def test_features_that_share_a_table_share_its_rows_and_counts(tmp_path: Path) -> None:
    schema = schema_section()
    schema["features"].append({"name": "seen", "kind": "history", "table": "item"})
    columns = log_columns() | {"seen": [[7, 7, 1] if row % 2 else [] for row in range(NUM_ROWS)]}
    config = prepare(tmp_path, columns, schema=schema)
    index = run(config)
    assert vocabulary(config, "item") == {"7": 14, "1": 10, "0": 2, "2": 2}
    test = read_split(config, index, "test")
    rows = {value: row for row, value in enumerate(vocabulary(config, "item"), start=2)}
    assert test["sparse_seen"].to_pylist() == [[rows["7"], rows["7"], rows["1"]], [], [rows["7"], rows["7"], rows["1"]]]
    assert test["sparse_item"].to_pylist() == [rows["2"], 0, rows["1"]]


def test_the_transform_encodes_rows_without_labels_as_the_dataset_has_them(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    index = run(config)
    fitted = FittedTransform.load(config.dataset_dir, config.data_schema, index.vocabulary_version)
    raw = pa.table({name: log_columns()[name][17:] for name in ("item", "city", "tags", "user", "price")})
    encoded = fitted.encode_features(raw, "candidates")
    assert encoded.equals(read_split(config, index, "test").select(encoded.column_names))


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


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ([str(row) for row in range(20)], pa.int64()),
        ([*("1.0" for _ in range(19)), None], pa.int64()),
        (["x", *(str(row) for row in range(19))], pa.string()),
        (["007", *(str(row) for row in range(19))], pa.string()),
    ],
)
def test_csv_keys_are_integers_when_all_files_agree(tmp_path: Path, keys: list[Any], expected: pa.DataType) -> None:
    columns = log_columns() | {"request": keys}
    for part in range(2):
        rows = slice(part * 10, part * 10 + 10)
        write_rows(tmp_path / "parts" / f"{part}.csv", {name: values[rows] for name, values in columns.items()})
    schema = schema_section()
    schema["keys"]["request"] = "request"
    config = make_config(tmp_path, "parts", schema=schema)
    index = run(config)
    found = read_split(config, index, "test")["key_request"]
    assert found.type == expected
    assert [str(key) for key in found.to_pylist()] == [str(key).removesuffix(".0") for key in keys[17:]]


def test_a_complete_dataset_is_not_overwritten_by_default(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    run(config)
    with pytest.raises(UsageError, match="dataset holds a complete dataset"):
        run(config)


def test_what_an_unfinished_attempt_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    (config.dataset_dir / "vocabularies").mkdir(parents=True)
    leftovers = ["train-00099.arrow", "statistics.json", "vocabularies/old.arrow", ".train-00001.arrow.7.partial"]
    for name in [*leftovers, "notes.txt"]:
        (config.dataset_dir / name).write_text("old")
    run(config)
    found = content_of(config.dataset_dir)
    assert "notes.txt" in found
    assert not {*leftovers} - {"statistics.json"} & found.keys()


def test_a_failed_overwrite_leaves_no_index(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    run(config)
    write_rows(tmp_path / "log.parquet", without("click", 0, 5))
    with pytest.raises(DataError):
        run(config, overwrite=True)
    assert not (config.dataset_dir / "index.json").exists()


def test_a_workspace_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    config.workspace_dir.write_text("a file is in the way")
    with pytest.raises(UsageError, match=r"dataset cannot be written"):
        run(config)


def test_a_file_without_rows_among_others_changes_nothing(tmp_path: Path) -> None:
    columns = log_columns()
    for name, rows in (("a.parquet", 20), ("b.parquet", 0)):
        write_rows(tmp_path / "parts" / name, {column: values[:rows] for column, values in columns.items()})
    for name, rows in (("a.csv", 20), ("b.csv", 0)):
        write_rows(tmp_path / "texts" / name, {column: values[:rows] for column, values in columns.items()})
    assert run(make_config(tmp_path, "parts")).num_rows("train") == 14
    assert run(make_config(tmp_path, "texts"), overwrite=True).num_rows("train") == 14


def fails(folder: Path, error: type[Exception], message: str, columns: Any = None, **sections: Any) -> None:
    config = prepare(folder, columns, **sections)
    with pytest.raises(error, match=message):
        run(config)


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("click", 10, 2, r"task 'click': label 2 in .*log\.parquet, row 11: a binary label is 0, 1 or null"),
        ("like", 19, -1, r"task 'like': label -1 in .*log\.parquet, row 20: a binary label is 0, 1 or null"),
        (
            "dwell",
            9,
            float("nan"),
            r"task 'dwell': label nan in .*log\.parquet, row 10: a regression label is a finite",
        ),
        ("minute", 9, None, r"the split column 'minute' is null in .*log\.parquet, row 10"),
    ],
)
def test_a_bad_value_is_named_with_file_and_row(
    tmp_path: Path, column: str, row: int, value: Any, message: str
) -> None:
    fails(tmp_path, DataError, message, without(column, row, value))


def test_an_empty_split_tells_the_rows_and_the_range_of_the_column(tmp_path: Path) -> None:
    split = {"kind": "time", "column": "minute", "validation_from": 14, "test_from": 50}
    message = r"the test split has no row \(train 14, validation 6, test 0\); column 'minute' goes from 0 to 19"
    fails(tmp_path, DataError, message, split=split)
    split = {"kind": "order", "validation_fraction": 0.1, "test_fraction": 0.01}
    fails(tmp_path, DataError, r"the test split has no row .*Change the fractions", split=split)


def test_a_log_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(",".join(log_columns()) + "\n")
    with pytest.raises(DataError, match=r"log\.csv holds no row"):
        run(make_config(tmp_path, "log.csv"))
    fails(
        tmp_path, DataError, r"log\.parquet holds no row", {name: values[:0] for name, values in log_columns().items()}
    )


def test_a_label_that_is_null_in_training_is_refused(tmp_path: Path) -> None:
    columns = log_columns()
    columns["dwell"] = [None] * 14 + [1.0] * 6
    fails(tmp_path, DataError, "task 'dwell': label column 'dwell' is null in every training row", columns)


def test_a_task_whose_space_is_empty_in_training_is_refused(tmp_path: Path) -> None:
    columns = log_columns() | {"click": [0] * 14 + [1] * 6, "like": [0] * 20}
    fails(tmp_path, DataError, "task 'like' is defined on no training row: none has 'click' = 1 and a label", columns)


def test_a_missing_label_column_is_named(tmp_path: Path) -> None:
    schema = schema_section()
    schema["tasks"][0]["label"] = "clik"
    fails(tmp_path, DataError, r"column 'clik' is not in .*log\.parquet. Did you mean 'click'", schema=schema)


def test_missing_inputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the input folder .*nowhere is not there"):
        run(make_config(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"there is no file, folder or match for .*log\.parquet"):
        run(make_config(tmp_path))


def test_boundaries_in_the_wrong_order_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    split = {"kind": "time", "column": "minute", "validation_from": 17, "test_from": 14}
    with pytest.raises(ConfigError, match=r"validation_from 17\.0 is not before test_from 14\.0"):
        run(make_config(tmp_path, split=split))


def test_a_bad_value_of_a_joined_table_names_the_table(tmp_path: Path) -> None:
    write_rows(tmp_path / "users.csv", {"user": [0, 1], "age": ["10", "old"]})
    schema = schema_section()
    schema["features"].append({"name": "age", "kind": "numeric"})
    message = r"feature 'age': 'old' in .*users\.csv, joined to .*log\.parquet, row 2 is not a number"
    fails(tmp_path, DataError, message, schema=schema, tables=[{"path": "users.csv", "key": "user"}])


def test_progress_tells_each_finished_partition_and_its_rows(tmp_path: Path) -> None:
    seen: list[tuple[Any, ...]] = []
    preprocess(prepare(tmp_path), InProcessExecutor(), lambda *call: seen.append(call))
    assert seen == [
        (what, done, 3, num_rows, "rows")
        for what, counts in (("partitions read", (0, 8, 16, 20)), ("shards written", (0, 14, 17, 20)))
        for done, num_rows in enumerate(counts)
    ]


def test_the_index_is_what_preprocess_returns(tmp_path: Path) -> None:
    index = run(prepare(tmp_path))
    assert isinstance(index, DatasetIndex)
    assert index.data_schema.fingerprint() == index.schema_fingerprint


# --- the contract


def bad_log() -> dict[str, list[Any]]:
    """A label that is none in row 3, a price below 0 in row 9, a like without a click in row 12."""
    columns = log_columns()
    columns["click"][2] = 2
    columns["price"][8] = -5.0
    columns["like"][11], columns["click"][11] = 1, 0
    return columns


CONTRACT = {
    "columns": {"price": {"type": "number", "range": [0, None]}},
    "bad_rows": "quarantine",
    "labels": "quarantine",
    "max_quarantine_fraction": 0.2,
}


def test_bad_rows_go_to_a_file_with_their_reasons_and_the_rest_is_as_if_they_had_never_been(tmp_path: Path) -> None:
    config = prepare(tmp_path / "bad", bad_log(), contract=CONTRACT)
    index = run(config)
    found = statistics(config)
    assert found["rows"] == {"train": 11, "validation": 3, "test": 3}
    assert found["quarantine"]["quarantined"] == 3
    assert [entry["rows"] for entry in found["quarantine"]["reasons"]] == [1, 1, 1]
    quarantined = pa.concat_tables(map(pq.read_table, sorted(config.dataset_dir.glob("quarantine-*.parquet"))))
    assert quarantined["quarantine_row"].to_pylist() == [3, 9, 12]
    assert quarantined["quarantine_reason"].to_pylist() == [
        "task 'click': a binary label is 0, 1 or null",
        "column 'price' is below 0",
        "task 'like' has label 1 outside its space 'click', whose label is 0",
    ]
    good = {name: [v for row, v in enumerate(values) if row not in (2, 8, 11)] for name, values in bad_log().items()}
    clean_config = prepare(tmp_path / "clean", good)
    clean = run(clean_config)
    for split in ("train", "validation", "test"):
        assert read_split(config, index, split).equals(read_split(clean_config, clean, split))


def test_more_bad_rows_than_allowed_stop_the_run_with_one_message(tmp_path: Path) -> None:
    contract = CONTRACT | {"max_quarantine_fraction": 0.1}
    message = r"3 of 20 rows are bad \(15\.00%\), and preprocess\.contract\.max_quarantine_fraction is 0\.1: .*row 12"
    fails(tmp_path, DataError, message, bad_log(), contract=contract)


def test_an_impossible_label_is_an_error_unless_the_contract_says_otherwise(tmp_path: Path) -> None:
    columns = log_columns()
    columns["like"][11], columns["click"][11] = 1, 0
    message = r"task 'like' has label 1 outside its space 'click', whose label is 0: 1 in .*log\.parquet, row 12"
    fails(tmp_path, DataError, message, columns)
    assert run(prepare(tmp_path, columns, contract={"labels": "ignore"})).num_rows("train") == 14


def test_a_retyped_column_is_named_and_an_added_one_told(tmp_path: Path) -> None:
    typed: dict[str, Any] = {"columns": {"price": {"type": "text"}, "user": {"type": "integer"}}}
    fails(
        tmp_path, DataError, r"column 'price' of .*log\.parquet has type double, and the contract says", contract=typed
    )
    typed["columns"]["price"] = {"type": "number"}
    config = prepare(tmp_path, contract=typed)
    run(config)
    assert any(
        "column 'item' of" in line and "is not in the contract" in line for line in statistics(config)["warnings"]
    )


def test_drift_from_the_dataset_before_is_told_or_stops_the_run(tmp_path: Path) -> None:
    split = {"kind": "order", "validation_fraction": 0.1, "test_fraction": 0.1}
    columns = {name: values * 100 for name, values in log_columns().items()}
    before = prepare(tmp_path / "before", columns, split=split)
    run(before)
    columns["price"] = [value and value + 15 for value in columns["price"]]
    drift = {"previous": str(before.dataset_dir)}
    config = prepare(tmp_path / "after", columns, split=split, contract={"drift": drift})
    run(config)
    found = statistics(config)
    assert [line for line in found["warnings"] if "feature 'price': population stability index is" in line]
    assert len(found["warnings"]) == 1
    stopping = {"drift": drift | {"action": "stop"}}
    fails(tmp_path / "stopped", DataError, "the log has drifted from", columns, split=split, contract=stopping)


# --- extending an earlier dataset


def next_days() -> dict[str, list[Any]]:
    """The small log an hour later, with items and cities that the first had not."""
    columns = log_columns()
    columns["minute"] = [minute + 60 for minute in columns["minute"]]
    columns["item"] = [7 if item == 1 else item for item in columns["item"]]
    columns["city"] = [city and city.replace("york", "oslo") for city in columns["city"]]
    columns["price"] = [price and price * 3 for price in columns["price"]]
    return columns


LATER = {"kind": "time", "column": "minute", "validation_from": 74, "test_from": 77}


def test_a_later_dataset_adds_rows_and_changes_no_earlier_one(tmp_path: Path) -> None:
    first = prepare(tmp_path / "first")
    before = run(first)
    second = prepare(tmp_path / "second", next_days(), split=LATER, extend=str(first.dataset_dir))
    after = run(second)
    assert list(vocabulary(second, "item"))[:3] == list(vocabulary(first, "item"))
    assert list(vocabulary(second, "item"))[3:] == ["7"]
    assert vocabulary(second, "item").keys() == {"0", "1", "2", "7"}
    assert after.table_rows == before.table_rows | {"item": 6, "city": 6}
    told = statistics(second)["tables"]["item"]
    assert (told["earlier_values"], told["kept_values"], told["refused_values"]) == (3, 4, 0)
    assert digest_vocabulary(second.dataset_dir, "item", 3) == digest_vocabulary(first.dataset_dir, "item")
    # Rows of the first log are encoded as they were, bit for bit.
    transforms = [FittedTransform.load(config.dataset_dir, config.data_schema) for config in (first, second)]
    old = pa.table(log_columns())
    was, now = (transform.encode_features(old, "log") for transform in transforms)
    assert now.equals(was)


def test_a_full_table_refuses_new_values_and_says_how_many(tmp_path: Path) -> None:
    schema = schema_section()
    schema["features"][0]["max_size"] = 3
    first = prepare(tmp_path / "first", schema=schema)
    run(first)
    second = prepare(tmp_path / "second", next_days(), schema=schema, split=LATER, extend=str(first.dataset_dir))
    run(second)
    assert vocabulary(second, "item") == vocabulary(first, "item")
    assert statistics(second)["tables"]["item"]["refused_values"] == 1


def test_a_dataset_does_not_extend_itself_and_is_kept(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    run(config)
    before = content_of(config.dataset_dir)
    with pytest.raises(ConfigError, match="the dataset that this run writes"):
        run(make_config(tmp_path, extend=str(config.dataset_dir)), overwrite=True)
    assert content_of(config.dataset_dir) == before


def test_what_a_run_is_compared_with_is_read_before_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RawLog, "read", None)
    contract = {"drift": {"previous": str(tmp_path / "nowhere")}}
    fails(tmp_path, ArtifactError, "the statistics of the previous dataset", contract=contract)


def test_only_a_complete_dataset_of_the_same_schema_is_extended(tmp_path: Path) -> None:
    fails(tmp_path, ArtifactError, "holds no complete dataset", extend=str(tmp_path / "nowhere"))
    first = prepare(tmp_path / "first")
    run(first)
    schema = schema_section()
    schema["features"][0]["min_count"] = 3
    fails(tmp_path / "x", ArtifactError, "min_count was 2, is 3", schema=schema, extend=str(first.dataset_dir))
