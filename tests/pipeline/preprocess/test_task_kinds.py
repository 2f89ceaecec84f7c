"""Every kind of task and the row weights, from a raw log to batches; and what a dataset without enough weight says."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from small_logs import (
    every_kind_section,
    log_columns,
    make_config,
    read_split,
    run,
    schema_section,
    statistics,
    write_rows,
)

from pipeline.errors import ConfigError, DataError
from pipeline.run_config import RunConfig
from pipeline.schema import Schema
from pipeline.shards.assignment import SampleOrder
from pipeline.shards.collate import Layout, collate
from pipeline.shards.manifest import SPLITS, read_index
from pipeline.shards.reader import ShardReader

NAN = float("nan")
WARM, HOT, COLD = 0.0, 1.0, 2.0


def prepare(folder: Path, columns: dict[str, Any] | None = None, **schema: Any) -> RunConfig:
    write_rows(folder / "log.parquet", log_columns() | (columns or {}))
    return make_config(folder, schema=every_kind_section() | schema)


def test_labels_and_weights_reach_the_batch(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    index = run(config)
    shards = index.of_split("train")
    order = SampleOrder(tuple(shard.rows for shard in shards), 1, 16, 16, 1, seed=0, shuffle=False)
    (table,) = ShardReader(config.dataset_dir, shards, order).batches(epoch=0)
    batch = collate(table, Layout.of(index.data_schema, index.table_rows), 16)
    moods = [COLD, WARM, HOT] * 5
    expected = torch.tensor([[row % 2, moods[row], row, row] for row in range(14)], dtype=torch.float32)
    expected[6, 1] = expected[5, 2] = NAN
    torch.testing.assert_close(batch.labels[:14], expected, rtol=0, atol=0, equal_nan=True)
    assert batch.weights.tolist() == [row % 4 / 2 for row in range(14)] + [0.0, 0.0]


def test_weights_are_a_column_of_every_shard_only_where_the_schema_has_them(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    index = run(config)
    for split in SPLITS:
        rows = read_split(config, index, split)
        field = rows.schema.field("weight")
        assert (field.type, field.nullable) == (pa.float32(), False)
        assert rows.column_names.index("weight") == rows.column_names.index("labels") + 1
        assert rows["weight"].to_pylist() == [minute % 4 / 2 for minute in rows["key_time"].to_pylist()]
    plain = prepare(tmp_path / "plain", weight=None)
    assert "weight" not in read_split(plain, run(plain), "train").column_names


def test_the_index_keeps_the_order_of_classes(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    written = run(config)
    index = read_index(config.dataset_dir)
    assert index.schema_fingerprint == written.schema_fingerprint == config.data_schema.fingerprint()
    assert list(index.data_schema.tasks[1].classes or ()) == ["warm", "hot", "cold"]


def test_the_statistics_of_watch_times_are_over_the_rows_where_the_task_is_defined(tmp_path: Path) -> None:
    # Clicked rows of the training split, less the one whose time is null.
    watched = [1.0, 3.0, 7.0, 9.0, 11.0, 13.0]
    stay = run(prepare(tmp_path)).label_statistics["stay"]
    assert stay.rows == len(watched)
    assert stay.mean == pytest.approx(sum(watched) / len(watched))
    assert stay.deviation == pytest.approx(torch.tensor(watched).std(correction=0).item())


def test_statistics_count_the_rows_of_each_class_and_those_without_weight(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    run(config)
    found = statistics(config)
    assert found["zero_weight_rows"] == {"train": 4, "validation": 1, "test": 0}
    mood = found["tasks"]["mood"]
    assert mood["classes"] == {
        "warm": {"train": 5, "validation": 1, "test": 1},
        "hot": {"train": 4, "validation": 1, "test": 1},
        "cold": {"train": 4, "validation": 1, "test": 1},
    }
    # A mean over places of classes would say nothing.
    assert "mean" not in mood
    assert mood["nulls"]["train"] == 1
    assert found["tasks"]["stay"]["zero_weight_rows"]["train"] == 0
    assert found["tasks"]["click"]["zero_weight_rows"]["train"] == 4


def test_a_weight_may_come_from_a_joined_table_that_has_every_key(tmp_path: Path) -> None:
    write_rows(tmp_path / "log.parquet", log_columns())
    table: dict[str, list[Any]] = {"user": [0, 1, 2, 3], "of_user": [1.0, 2.0, 3.0, 4.0]}
    write_rows(tmp_path / "users.csv", table)
    schema = every_kind_section() | {"weight": "of_user"}
    config = make_config(tmp_path, schema=schema, tables=[{"path": "users.csv", "key": "user"}])
    assert read_split(config, run(config), "test")["weight"].to_pylist() == [2.0, 3.0, 4.0]
    write_rows(tmp_path / "users.csv", {name: values[:3] for name, values in table.items()})
    with pytest.raises(DataError, match=r"weight null in .*users\.csv, joined to .*log\.parquet, row 4: "):
        run(config, overwrite=True)


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        (
            "mood",
            19,
            "tepid",
            r"task 'mood': label 'tepid' in .*log\.parquet, row 20: .*\(warm: warm, hot: hot, cold: ",
        ),
        ("dwell", 2, -0.5, r"task 'stay': label -0\.5 in .*log\.parquet, row 3: a watch time is a finite number of at"),
        ("share", 18, -1.0, r"weight -1\.0 in .*log\.parquet, row 19: the weight of a row is a finite number of at"),
        ("share", 18, None, r"weight null in .*log\.parquet, row 19: .*give 1 where a row has no weight of its own"),
    ],
)
def test_a_bad_label_or_weight_is_named_with_file_and_row(
    tmp_path: Path, column: str, row: int, value: Any, message: str
) -> None:
    values = log_columns()[column]
    values[row] = value
    with pytest.raises(DataError, match=message):
        run(prepare(tmp_path, {column: values}))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.0] * 20, r"task 'click': column 'share' is 0 in every training row that the task is defined on"),
        ([float(row % 2 == 0) for row in range(20)], r"task 'stay': column 'share' is 0 in every training row that"),
        ([1.0] * 14 + [0.0] * 6, r"column 'share', the weight, is 0 in every row of the validation split"),
    ],
)
def test_a_task_that_no_weight_trains_is_refused(tmp_path: Path, weights: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        run(prepare(tmp_path, {"share": weights}))


def test_a_test_split_without_weight_is_measured_all_the_same(tmp_path: Path) -> None:
    assert run(prepare(tmp_path, {"share": [1.0] * 17 + [0.0] * 3})).num_rows("test") == 3


def test_classes_with_one_value_are_refused_before_the_log_is_read(tmp_path: Path) -> None:
    tasks = [{"name": "mood", "kind": "multiclass", "label": "mood", "classes": {"a": 1, "b": "1.0"}}]
    (tmp_path / "log.parquet").write_text("no log")
    with pytest.raises(ConfigError, match="task 'mood': classes 'a' and 'b' have the same label value '1'"):
        run(make_config(tmp_path, schema=schema_section() | {"tasks": tasks}))


def test_a_dataset_with_another_order_of_classes_is_another_dataset(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    before = run(config)
    data = config.data_schema.model_dump(mode="json")
    data["tasks"][1]["classes"] = dict(reversed(data["tasks"][1]["classes"].items()))
    schema = Schema.model_validate(data)
    after = run(config.model_copy(update={"data_schema": schema}), overwrite=True)
    assert after.schema_fingerprint != before.schema_fingerprint
    # Rows 17 to 19 are hot, cold and warm.
    labels = [label[1] for label in read_split(config, after, "test")["labels"].to_pylist()]
    assert labels == [1.0, 0.0, 2.0]
