"""The whole stage on a small log: what it writes, by hand, and the same from every format."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from small_logs import (
    NUM_ROWS,
    log_columns,
    make_config,
    prepare,
    read_split,
    run,
    schema_section,
    statistics,
    vocabulary,
    write_rows,
)

from pipeline.executor import InProcessExecutor
from pipeline.preprocess.run import preprocess
from pipeline.preprocess.transform import FittedTransform
from pipeline.shards.manifest import DatasetIndex, read_index, verify_shards


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


def test_the_index_is_what_preprocess_returns(tmp_path: Path) -> None:
    index = run(prepare(tmp_path))
    assert isinstance(index, DatasetIndex)
    assert index.data_schema.fingerprint() == index.schema_fingerprint


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


def test_progress_tells_each_finished_partition_and_its_rows(tmp_path: Path) -> None:
    seen: list[tuple[Any, ...]] = []
    preprocess(prepare(tmp_path), InProcessExecutor(), lambda *call: seen.append(call))
    assert seen == [
        (what, done, 3, num_rows, "rows")
        for what, counts in (("partitions read", (0, 8, 16, 20)), ("shards written", (0, 14, 17, 20)))
        for done, num_rows in enumerate(counts)
    ]


# --- formats


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


def test_a_file_without_rows_among_others_changes_nothing(tmp_path: Path) -> None:
    columns = log_columns()
    for name, rows in (("a.parquet", 20), ("b.parquet", 0)):
        write_rows(tmp_path / "parts" / name, {column: values[:rows] for column, values in columns.items()})
    for name, rows in (("a.csv", 20), ("b.csv", 0)):
        write_rows(tmp_path / "texts" / name, {column: values[:rows] for column, values in columns.items()})
    assert run(make_config(tmp_path, "parts")).num_rows("train") == 14
    assert run(make_config(tmp_path, "texts"), overwrite=True).num_rows("train") == 14
