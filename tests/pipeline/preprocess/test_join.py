"""Joins by hand: order, missing keys, keys of different types, and which column comes from where."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from small_logs import write_rows

from pipeline.errors import ConfigError, DataError
from pipeline.preprocess.config import TableConfig
from pipeline.preprocess.joins.join import join_tables, open_tables, plan_columns
from pipeline.preprocess.raw_files.sources import locate


def join(log: dict[str, Any], tables: list[TableConfig], needed: list[str]) -> tuple[pa.Table, list[Any]]:
    rows = pa.table(log)
    plan = plan_columns(rows.column_names, "log.csv", tables, needed)
    joined = join_tables(rows.select(list(plan.log)), open_tables(tables, plan, None), "log.csv")
    return joined.rows, [counts["missing_keys"].tolist() for counts in joined.counts]


def user_table(folder: Path, name: str = "users.parquet", **columns: Any) -> TableConfig:
    values = columns or {"user": [7, 3, 5], "age": [70, None, 50]}
    return TableConfig(path=str(write_rows(folder / name, values)), key=next(iter(values)), log_key="user")


def test_rows_keep_the_order_of_the_log_and_missing_keys_give_nulls(tmp_path: Path) -> None:
    joined, missing = join({"user": [5, 9, 7, None, 3, 5]}, [user_table(tmp_path)], ["user", "age"])
    assert joined.to_pydict() == {"user": [5, 9, 7, None, 3, 5], "age": [50, None, 70, None, None, 50]}
    assert missing == [[False, True, False, True, False, False]]


@pytest.mark.parametrize("name", ["users.csv", "users.parquet", "users.jsonl"])
@pytest.mark.parametrize(
    "keys", [pa.array([5, 9], pa.int32()), pa.array(["5", "9"]), pa.array([5.0, 9.0]), pa.array([5, 9], pa.uint64())]
)
def test_keys_of_different_types_meet_as_text(tmp_path: Path, name: str, keys: pa.Array) -> None:
    joined, missing = join({"user": keys}, [user_table(tmp_path, name)], ["age"])
    assert [str(age) for age in joined["age"].to_pylist()] == ["50", "None"]
    assert missing == [[False, True]]


def test_only_needed_columns_are_taken_and_two_tables_can_share_a_key(tmp_path: Path) -> None:
    first = user_table(tmp_path, "a.parquet", id=[1], age=[10], spare=[0])
    second = user_table(tmp_path, "b.parquet", id=[1], seen=[[1, 2]])
    joined, _ = join({"user": [1], "other": [0]}, [first, second], ["seen", "age"])
    assert joined.to_pydict() == {"user": [1], "age": [10], "seen": [[1, 2]]}


def test_a_table_can_be_joined_on_a_column_of_an_earlier_one(tmp_path: Path) -> None:
    users = user_table(tmp_path, "users.csv", user=[1, 2], city=["x", "y"])
    cities = TableConfig(path=str(write_rows(tmp_path / "c.csv", {"id": ["y"], "size": [9]})), key="id", log_key="city")
    joined, missing = join({"user": [2, 1]}, [users, cities], ["size"])
    assert joined["size"].to_pylist() == ["9", None]
    assert missing == [[False, False], [False, True]]


@pytest.mark.parametrize("keys", [[1, 2, 1], ["1", "2", "1.0"]])
def test_a_key_that_stands_twice_in_a_table_is_named(tmp_path: Path, keys: list[Any]) -> None:
    with pytest.raises(
        DataError, match=r"key user = 1 stands in .*users\.parquet, row 1 and in .*users\.parquet, row 3"
    ):
        join({"user": [1]}, [user_table(tmp_path, user=keys, age=[1, 2, 3])], ["age"])


def test_null_keys_of_a_table_match_nothing(tmp_path: Path) -> None:
    joined, _ = join({"user": [None, 2]}, [user_table(tmp_path, user=[None, None, 2], age=[1, 2, 3])], ["age"])
    assert joined["age"].to_pylist() == [None, 3]


def test_a_column_in_two_places_needs_a_choice(tmp_path: Path) -> None:
    log = {"user": [7], "age": [1]}
    table = user_table(tmp_path)
    other = user_table(tmp_path, "other.parquet", user=[7], age=[2])
    with pytest.raises(
        ConfigError, match=r"column 'age' is in log\.csv and in .*users\.parquet\. List under `columns`"
    ):
        join(log, [table], ["age"])
    with pytest.raises(ConfigError, match=r"column 'age' is in .*users\.parquet and in .*other\.parquet"):
        join({"user": [7]}, [table, other], ["age"])
    for columns, age in (((), 1), (("age",), 70)):
        joined, _ = join(log, [table.model_copy(update={"columns": columns})], ["age"])
        assert joined["age"].to_pylist() == [age]


def test_a_column_that_is_nowhere_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"column 'aeg' is not in log\.csv, nor among .* taken from .*users.parquet. Did you mean 'age'"
    ):
        join({"user": [7]}, [user_table(tmp_path)], ["aeg"])
    with pytest.raises(DataError, match=r"column 'agee' is not in .*users\.parquet. Did you mean 'age'"):
        join({"user": [7]}, [user_table(tmp_path).model_copy(update={"columns": ("agee",)})], ["age"])


def test_a_value_of_a_joined_column_is_located_in_its_table(tmp_path: Path) -> None:
    joined, _ = join({"user": [7]}, [user_table(tmp_path)], ["age"])
    assert locate(joined, "age", 0, "log.csv", 4).endswith("users.parquet, joined to log.csv, row 5")
    assert locate(joined, "user", 0, "log.csv", 4) == "log.csv, row 5"
