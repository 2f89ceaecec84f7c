"""Staged tables: what they join is what pandas and the tables in memory join, in bounded pieces."""

import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from small_joins import (
    assert_same_rows,
    each_form,
    join_to,
    keep_tables,
    make_all_tables_large,
    make_hashes_collide,
    make_table,
    random_keys,
    users,
)
from small_logs import write_rows

from pipeline.errors import DataError
from pipeline.executor import InProcessExecutor
from pipeline.preprocess.config import TableConfig
from pipeline.preprocess.joins import rows as join_rows
from pipeline.preprocess.joins import staging as join_staging
from pipeline.preprocess.joins.join import join_tables, open_tables, plan_columns
from pipeline.preprocess.joins.staging import RANGES_NAME, stage_table


@each_form
@pytest.mark.parametrize("num_hashes", [None, 1, 3])
@pytest.mark.parametrize("kind", ["integer", "text"])
def test_a_join_is_what_pandas_merges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, num_hashes: int | None, kind: str
) -> None:
    keep_tables(form, monkeypatch)
    if num_hashes:
        make_hashes_collide(monkeypatch, num_hashes)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        keys = random_keys(rng, 150, 400, kind).drop_duplicates(ignore_index=True)
        table = pd.DataFrame({"user": keys, "age": rng.integers(0, 90, len(keys)), "name": [f"n{k}" for k in keys]})
        log = pd.DataFrame({"user": random_keys(rng, 500, 400, kind)})
        expected = log.merge(table.dropna(subset="user"), on="user", how="left", indicator=True)
        config = make_table(tmp_path, pa.Table.from_pandas(table).to_pydict(), f"{seed}.parquet")
        found = join_to(pa.Table.from_pandas(log), [config], ["age", "name"], staging=tmp_path / str(seed))
        assert_same_rows(found, expected, ["age", "name"])
        assert found.counts[0]["missing_keys"].tolist() == (expected["_merge"] == "left_only").tolist()
        assert (tmp_path / str(seed) / "table-000" / RANGES_NAME).exists() == (form == "staged")


@pytest.mark.parametrize("name", ["users.parquet", "users.arrow", "users.csv", "users.csv.gz", "users.jsonl"])
def test_a_staged_table_of_any_format_joins_what_it_would_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    columns = users()
    if ".csv" in name:
        columns["seen"] = [str(values) for values in columns["seen"]]
    config = make_table(tmp_path, columns, name)
    log = {"user": [0, 1, None, 598, 14, 14, 7_000]}
    expected = join_to(log, [config], ["age", "name", "seen"]).rows
    make_all_tables_large(monkeypatch)
    for executor in (InProcessExecutor(), InProcessExecutor(4)):
        staging = tmp_path / f"{executor.num_threads}"
        found = join_to(log, [config], ["age", "name", "seen"], staging=staging, executor=executor).rows
        assert found.equals(expected)
        assert found.schema.equals(expected.schema, check_metadata=True)
        assert json.loads((staging / "table-000" / RANGES_NAME).read_bytes())["num_ranges"] > 5


def test_a_column_that_partitions_have_in_other_types_has_one_type_in_all_ranges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, ages in enumerate((pa.nulls(100), pa.array(range(100), pa.int32()), pa.array([0.5] * 100))):
        keys = range(100 * number, 100 * number + 100)
        write_rows(tmp_path / "users" / f"{number}.parquet", {"user": keys, "age": ages})
    write_rows(tmp_path / "users" / "3.parquet", {"user": [999], "age": [None]})
    config = TableConfig(path=str(tmp_path / "users"), key="user")
    make_all_tables_large(monkeypatch)
    ages = join_to({"user": [250, 1, 107, 999]}, [config], ["age"], staging=tmp_path / "staging").rows["age"]
    assert ages.type == pa.float64()
    assert ages.to_pylist() == [0.5, None, 7.0, None]
    write_rows(tmp_path / "users" / "4.parquet", {"user": [1_000], "age": ["old"]})
    with pytest.raises(DataError, match=r"the files of .*users have columns of different types"):
        join_to({"user": [1]}, [config], ["age"], staging=tmp_path / "other")


@each_form
def test_categories_views_and_nested_values_of_several_files_come_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    keep_tables(form, monkeypatch)
    for number in range(3):
        columns = {
            "user": pa.array([f"u{number}{row}" for row in range(100)]).dictionary_encode(),
            "city": pa.array([f"city {number}{row % 7}" for row in range(100)]).dictionary_encode(),
            "name": pa.array([f"name {row}" for row in range(100)], pa.string_view()),
            "pair": [{"left": row, "right": None} for row in range(100)],
        }
        write_rows(tmp_path / "users" / f"{number}.arrow", columns)
    config = TableConfig(path=str(tmp_path / "users"), key="user")
    found = join_to({"user": ["u25", "no", "u05"]}, [config], ["city", "name", "pair"], staging=tmp_path / "staging")
    assert found.rows.drop_columns("user").to_pylist() == [
        {"city": "city 25", "name": "name 5", "pair": {"left": 5, "right": None}},
        {"city": None, "name": None, "pair": None},
        {"city": "city 05", "name": "name 5", "pair": {"left": 5, "right": None}},
    ]


def test_no_step_holds_more_rows_than_a_partition_or_a_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"user": list(range(20_000)), "age": list(range(20_000))}
    config = TableConfig(path=str(write_rows(tmp_path / "users.parquet", columns, group_rows=100)), key="user")
    make_all_tables_large(monkeypatch)
    monkeypatch.setattr(join_rows, "PARTITION_ROWS", 500)
    monkeypatch.setattr(join_rows, "RANGE_BYTES", 20_000)
    held: dict[str, list[int]] = {"read_sorted": [], "merge_range": []}
    for name, rows in held.items():
        real = getattr(join_staging, name)

        def measured(*arguments: Any, real: Any = real, rows: list[int] = rows) -> pa.RecordBatch:
            batch = real(*arguments)
            rows.append(len(batch))
            return batch

        monkeypatch.setattr(join_staging, name, measured)
    found = join_to({"user": [19_999, 3]}, [config], ["age"], staging=tmp_path / "staging")
    assert found.rows["age"].to_pylist() == [19_999, 3]
    assert sum(held["read_sorted"]) == sum(held["merge_range"]) == 20_000
    assert max(held["read_sorted"]) <= 500
    assert max(held["merge_range"]) < 1_000


@each_form
def test_a_log_without_rows_or_keys_and_a_table_without_needed_columns_are_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    keep_tables(form, monkeypatch)
    config = make_table(tmp_path, users())
    nothing = join_to({"user": pa.array([], pa.int64())}, [config], ["age", "name"], staging=tmp_path / "a").rows
    assert nothing.schema.types == [pa.int64(), pa.int64(), pa.string()]
    nulls = join_to({"user": [None] * 3}, [config], ["name"], staging=tmp_path / "b")
    assert nulls.rows["name"].to_pylist() == [None] * 3
    counted = join_to({"user": [0, 1, 2, 3] * 100}, [config], ["user"], staging=tmp_path / "c")
    assert counted.rows.column_names == ["user"]
    assert counted.counts[0]["missing_keys"].tolist() == [False, True] * 200


def test_a_lookup_opens_only_the_ranges_of_its_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_all_tables_large(monkeypatch)
    config = make_table(tmp_path, users())
    folder = tmp_path / "staging" / "table-000"
    join_to({"user": [0]}, [config], ["age"], staging=folder.parent)
    opened: list[Path] = []
    real = join_staging._map_rows

    def measured(path: Path) -> pa.RecordBatch:
        opened.append(path)
        return real(path)

    monkeypatch.setattr(join_staging, "_map_rows", measured)
    found = join_to({"user": [8] * 50 + [None]}, [config], ["age"], staging=folder.parent)
    assert found.rows["age"].to_pylist() == [8] * 50 + [None]
    assert len(opened) <= 2  # that of the key, and that of null
    assert not (folder / "parts").exists()


class Processes(InProcessExecutor):
    """Two new processes each time, which get all that they know with each item."""

    def map(self, function: Any, items: Any) -> Any:
        # They are forked from a process that has imported what they need, and nothing else.
        context = get_context("forkserver")
        context.set_forkserver_preload(["pytest", "pipeline.preprocess.joins.join"])
        with ProcessPoolExecutor(2, context) as pool:
            yield from pool.map(function, items)


def test_processes_look_up_what_others_staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_table(tmp_path, users())
    log = [pa.table({"user": range(first, first + 100)}) for first in range(0, 600, 100)]
    expected = [join_to(rows, [config], ["age", "name"]).rows for rows in log]
    make_all_tables_large(monkeypatch)
    plan = plan_columns(["user"], "log.csv", [config], ["user", "age", "name"])
    (table,) = open_tables([config], plan, None, tmp_path / "staging")
    stage_table(table, Processes())
    found = Processes().map(partial(join_tables, tables=[table], source="log.csv"), log)
    assert [joined.rows for joined in found] == expected


# --- errors


@each_form
def test_both_rows_of_a_key_that_stands_twice_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    for number, first in enumerate((0, 100, 200)):
        keys = [*range(first, first + 100)]
        keys[40] = 77 if number == 2 else keys[40]
        write_rows(tmp_path / "users" / f"{number}.csv", {"user": keys, "age": keys})
    config = TableConfig(path=str(tmp_path / "users"), key="user")
    keep_tables(form, monkeypatch)
    with pytest.raises(DataError, match=r"key user = 77 stands in .*0\.csv, row 78 and in .*2\.csv, row 41"):
        join_to({"user": [1]}, [config], ["age"], staging=tmp_path / "staging")


@each_form
def test_a_table_without_a_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    keep_tables(form, monkeypatch)
    config = make_table(tmp_path, {"user": pa.nulls(3, pa.int64()), "age": [1, 2, 3]})
    with pytest.raises(DataError, match=r"users\.parquet holds no row with a key"):
        join_to({"user": [1]}, [config], ["age"], staging=tmp_path / "staging")
