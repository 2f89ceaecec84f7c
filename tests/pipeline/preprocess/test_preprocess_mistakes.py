"""The whole stage on a mistake in the log or the settings: each is named, and what to change."""

from pathlib import Path
from typing import Any

import pytest
from small_logs import fails, log_columns, make_config, prepare, run, schema_section, with_value, write_rows

from pipeline.errors import ConfigError, DataError, UsageError


def test_a_workspace_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    config.workspace_dir.write_text("a file is in the way")
    with pytest.raises(UsageError, match=r"dataset cannot be written"):
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
    fails(tmp_path, DataError, message, with_value(column, row, value))


def test_a_bad_value_of_a_joined_table_names_the_table(tmp_path: Path) -> None:
    write_rows(tmp_path / "users.csv", {"user": [0, 1], "age": ["10", "old"]})
    schema = schema_section()
    schema["features"].append({"name": "age", "kind": "numeric"})
    message = r"feature 'age': 'old' in .*users\.csv, joined to .*log\.parquet, row 2 is not a number"
    fails(tmp_path, DataError, message, schema=schema, tables=[{"path": "users.csv", "key": "user"}])


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
