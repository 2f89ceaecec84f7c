"""A finished table that does not fit is refused with what to change."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from finished_tables import SCHEMA, finished_columns, finished_config, read

from pipeline.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        ("clicked", "has no column 'clicked'. Name the column that has it under evaluate.predictions.columns"),
        ("prediction_watch", "has no column 'prediction_watch'"),
        ("user", "has no column 'user'"),
    ],
)
def test_a_column_that_is_not_there_is_named(drop: str, message: str, tmp_path: Path) -> None:
    columns = {name: values for name, values in finished_columns().items() if name != drop}
    with pytest.raises(DataError, match=message):
        read(finished_config(tmp_path, columns=columns))


def test_a_column_with_another_name_is_suggested(tmp_path: Path) -> None:
    columns = finished_columns()
    columns["click_prediction"] = columns.pop("prediction_click")
    with pytest.raises(DataError, match=r"has no column 'prediction_click'\. Did you mean .*\? If so, name the column"):
        read(finished_config(tmp_path, columns=columns))


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        (
            "prediction_click",
            7,
            1.5,
            r"prediction_click 1.5 in .*table.parquet, row 8: a prediction of a binary task is",
        ),
        ("prediction_mood_bad", 0, -0.1, "prediction_mood_bad -0.1 in .*row 1: a prediction of a multiclass task is a"),
        ("clicked", 39, 3, "task 'click': label 3 in .*row 40: a binary label is 0, 1 or null"),
        ("mood", 20, "x", "task 'mood': label 'x' in .*row 21: a multiclass label"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_row(
    column: str, row: int, value: Any, message: str, tmp_path: Path
) -> None:
    columns = finished_columns()
    columns[column][row] = value
    with pytest.raises(DataError, match=message):
        read(finished_config(tmp_path, columns=columns))


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ({"slices": ["new_user"]}, "what the table's model has learnt is not known"),
        (
            {"predictions": {"columns": {"predicion_click": "p"}}},
            r"'predicion_click', which is not needed\. Did you mean",
        ),
    ],
)
def test_a_setting_that_does_not_fit_a_finished_table_is_a_clear_error(
    evaluate: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        read(finished_config(tmp_path, **evaluate))


def test_a_slice_that_no_column_has_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no column 'citty'\. Did you mean 'city'\?"):
        read(finished_config(tmp_path, slices=["citty"]))
    with pytest.raises(ConfigError, match="names 'day', and the schema has no key `time`"):
        read(finished_config(tmp_path, {**SCHEMA, "keys": {"user": "user"}}, slices=["day"]))


def test_a_checkpoint_and_a_finished_table_are_not_compared(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has the model to compare with in its columns baseline_<output>"):
        finished_config(tmp_path, baseline="runs/a/checkpoints/step-1")


def test_a_table_without_rows_is_one_message(tmp_path: Path) -> None:
    config = finished_config(tmp_path)
    pq.write_table(pq.read_table(tmp_path / "table.parquet").slice(0, 0), tmp_path / "table.parquet")
    with pytest.raises(DataError, match=r"table\.parquet holds no row"):
        read(config)
