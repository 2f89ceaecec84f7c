"""The window: what is inside is as if the rest had never been, what is outside is not read, and messages keep place."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from killed_runs import Killed
from small_logs import NUM_ROWS, fails, log_columns, make_config, prepare, run, statistics, with_value, write_rows

from pipeline.config import build
from pipeline.errors import ConfigError, DataError, GatehouseError
from pipeline.preprocess.config import WindowConfig
from pipeline.preprocess.raw_files.sources import ROW_COLUMN, plan_partitions
from pipeline.preprocess.raw_files.window import Window
from pipeline.preprocess.run import preprocess
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import STATISTICS_NAME

FIRST, END = 3, 18
WINDOW = {"column": "minute", "from": FIRST, "to": END}
FORMATS = ["log.parquet", "log.arrow", "log.csv", "log.csv.gz", "log.jsonl"]
SPLITS: dict[str, dict[str, Any]] = {
    "time": {"kind": "time", "column": "minute", "validation_from": 12, "test_from": 15},
    "hash": {"kind": "hash", "column": "item", "validation_fraction": 0.3, "test_fraction": 0.3, "seed": 4},
    "time_hash": {"kind": "time_hash", "column": "minute", "test_from": 15, "key": "item", "validation_fraction": 0.4},
    "column": {"kind": "column", "column": "user", "validation": [1], "test": [3]},
    "order": {"kind": "order", "validation_fraction": 0.2, "test_fraction": 0.2},
}


def inside(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: values[FIRST:END] for name, values in columns.items()}


def written(config: RunConfig) -> dict[str, bytes]:
    """All files of the dataset but what is told of the rows outside."""
    files = {path.name: path.read_bytes() for path in config.dataset_dir.rglob("*") if path.is_file()}
    told = json.loads(files.pop(STATISTICS_NAME))
    told.pop("window", None)
    return files | {STATISTICS_NAME: json.dumps(told).encode()}


@pytest.mark.parametrize("kind", SPLITS)
@pytest.mark.parametrize("log", FORMATS)
def test_a_window_gives_the_bytes_of_a_log_that_ends_there(tmp_path: Path, log: str, kind: str) -> None:
    schema = {"keys": {"user": "user"}, "tasks": [{"name": "dwell", "kind": "regression", "label": "dwell"}]}
    schema["features"] = [{"name": "item", "kind": "categorical"}, {"name": "price", "kind": "numeric"}]
    sections = {"split": SPLITS[kind], "schema": schema, "rows_per_partition": NUM_ROWS}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    write_rows(whole / log, log_columns(), group_rows=NUM_ROWS)
    write_rows(cut / log, inside(log_columns()), group_rows=NUM_ROWS)
    windowed, plain = make_config(whole, log, window=WINDOW, **sections), make_config(cut, log, **sections)
    run(windowed)
    run(plain)
    assert written(windowed) == written(plain)
    assert statistics(windowed)["window"] == {"column": "minute", "rows_outside": NUM_ROWS - (END - FIRST)}


@pytest.mark.parametrize("log", FORMATS)
def test_partitions_without_a_row_inside_and_many_files_change_nothing(tmp_path: Path, log: str) -> None:
    columns = log_columns()
    for name, rows in (("a", slice(0, 3)), ("b", slice(3, 11)), ("c", slice(11, 20))):
        write_rows(tmp_path / f"{name}-{log}", {key: values[rows] for key, values in columns.items()}, group_rows=2)
    config = make_config(tmp_path, f"?-{log}", window=WINDOW, split=SPLITS["time"], rows_per_partition=2)
    index = run(config)
    assert [index.num_rows(split) for split in ("train", "validation", "test")] == [9, 3, 3]


def test_row_groups_outside_are_never_read(tmp_path: Path) -> None:
    config = prepare(tmp_path, window={**WINDOW, "from": 8, "to": 16}, split={**SPLITS["time"], "test_from": 14})
    path = tmp_path / "log.parquet"
    groups = pq.read_metadata(path)
    content = bytearray(path.read_bytes())
    for number in (0, 2):
        for place in range(groups.num_columns):
            column = groups.row_group(number).column(place)
            start = column.dictionary_page_offset or column.data_page_offset
            content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(content)
    index = run(config)
    assert sum(shard.rows for shard in index.shards) == 8
    assert statistics(config)["window"]["rows_outside"] == 0


def test_a_file_outside_is_no_part_of_the_work(tmp_path: Path) -> None:
    columns = log_columns()
    write_rows(tmp_path / "log-a.parquet", inside(columns))
    config = make_config(tmp_path, "log-*.parquet", window=WINDOW, split=SPLITS["time"])
    run(config)
    before = written(config)
    write_rows(tmp_path / "log-b.parquet", {name: values[END:] for name, values in columns.items()})
    run(config, overwrite=True)
    assert written(config) == before


@pytest.mark.parametrize("log", ["log.parquet", "log.csv"])
@pytest.mark.parametrize("num_done", [1, 3])
def test_a_killed_run_goes_on_and_another_window_begins_anew(tmp_path: Path, log: str, num_done: int) -> None:
    write_rows(tmp_path / log, log_columns(), group_rows=4)
    sections: dict[str, Any] = {"split": SPLITS["time_hash"], "rows_per_partition": 4}
    undisturbed = make_config(tmp_path, log, window=WINDOW, **sections)
    run(undisturbed)
    expected = written(undisturbed)
    for before in ({**WINDOW, "from": 1}, WINDOW):
        shutil.rmtree(undisturbed.workspace_dir)
        with pytest.raises(KeyboardInterrupt):
            preprocess(make_config(tmp_path, log, window=before, **sections), Killed(num_done))
        run(undisturbed)
        assert written(undisturbed) == expected


@pytest.mark.parametrize("log", ["log.parquet", "log.csv"])
def test_a_message_names_the_row_of_the_file_and_not_of_the_window(tmp_path: Path, log: str) -> None:
    write_rows(tmp_path / log, with_value("click", 9, 7), group_rows=NUM_ROWS)
    with pytest.raises(DataError, match=rf"{log}, row 10\b"):
        run(make_config(tmp_path, log, window=WINDOW, split=SPLITS["time"]))


def test_rows_in_quarantine_have_the_row_of_the_file(tmp_path: Path) -> None:
    contract = {"bad_rows": "quarantine", "max_quarantine_fraction": 0.5}
    write_rows(tmp_path / "log.parquet", with_value("click", 9, 7), group_rows=NUM_ROWS)
    config = make_config(tmp_path, window=WINDOW, split=SPLITS["time"], contract=contract)
    run(config)
    (path,) = config.dataset_dir.glob("quarantine-*.parquet")
    table = pq.read_table(path)
    assert table["quarantine_row"].to_pylist() == [10]
    assert ROW_COLUMN not in table.column_names


def test_a_bad_row_outside_is_no_error(tmp_path: Path) -> None:
    config = prepare(tmp_path, with_value("click", 1, 7), window=WINDOW, split=SPLITS["time"])
    run(config)
    assert statistics(config)["window"]["rows_outside"] == 5


def test_a_row_without_a_value_in_the_window_column_is_bad(tmp_path: Path) -> None:
    by_item = {"split": SPLITS["hash"], "window": WINDOW}
    message = "the window column 'minute' is null: null in .*, row 10. Correct the rows"
    fails(tmp_path / "error", DataError, message, with_value("minute", 9, None), **by_item)
    contract = {"bad_rows": "quarantine", "max_quarantine_fraction": 0.5}
    config = prepare(tmp_path / "aside", with_value("minute", 9, None), contract=contract, **by_item)
    run(config)
    assert statistics(config)["quarantine"]["reasons"][0]["reason"] == "the window column 'minute' is null"


@pytest.mark.parametrize("log", ["log.parquet", "log.csv"])
def test_a_window_without_a_row_is_said_with_its_ends(tmp_path: Path, log: str) -> None:
    write_rows(tmp_path / log, log_columns())
    with pytest.raises(
        DataError, match=r"holds no row whose .minute. is in 100 to 200\. See whether .*; or move preprocess\.window"
    ):
        run(make_config(tmp_path, log, window={"column": "minute", "from": 100, "to": 200}))


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ({"column": "minute", "from": 5, "to": 5}, "preprocess.window: from 5.0 is not before to 5.0"),
        ({"column": "minute", "from": 5, "to": "2025-01-01"}, "are not of one kind"),
        ({"column": "minute", "from": "2025-01-01", "to": "2025-01-02"}, "cannot be compared with column 'minute'"),
        ({"column": "hour", "from": 5, "to": 6}, "column 'hour' is not in"),
    ],
)
def test_a_window_that_cannot_be_is_refused(tmp_path: Path, window: dict[str, Any], message: str) -> None:
    config = prepare(tmp_path, window=window)
    with pytest.raises(GatehouseError, match=message):
        run(config)


def test_a_window_on_a_joined_column_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "users.parquet", {"user": [0, 1, 2, 3], "joined": [1, 2, 3, 4]})
    tables = [{"path": "users.parquet", "key": "user"}]
    window = {"column": "joined", "from": 1, "to": 2}
    fails(tmp_path, ConfigError, "'joined' is not a column of .*log.parquet", window=window, tables=tables)


def test_a_window_with_an_unknown_key_says_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown key until"):
        build(WindowConfig, {"column": "t", "from": 1, "until": 2}, "test.yaml")


START = datetime(2025, 1, 6, tzinfo=UTC)
TYPES = [
    pa.timestamp("s"), pa.timestamp("ms", "Europe/Berlin"), pa.timestamp("us", "UTC"), pa.timestamp("ns"), pa.date32(),
]  # fmt: skip


@given(
    hours=st.lists(st.integers(-100, 100), min_size=1, max_size=30),
    first=st.integers(-90, 90),
    length=st.integers(1, 60),
    type_=st.sampled_from(TYPES),
    group_rows=st.integers(1, 7),
)
def test_no_group_with_a_row_inside_is_left_out(
    tmp_path_factory: pytest.TempPathFactory,
    hours: list[int],
    first: int,
    length: int,
    type_: pa.DataType,
    group_rows: int,
) -> None:
    times = pa.array([START + timedelta(hours=hour) for hour in hours], pa.timestamp("us", "UTC"))
    times = times.cast(pa.timestamp("us")).cast(type_, safe=False) if pa.types.is_date(type_) else times.cast(type_)
    table = pa.table({"t": times})
    ends = [START + timedelta(hours=hour) for hour in (first, first + length)]
    window = Window.of(build(WindowConfig, {"column": "t", "from": ends[0], "to": ends[1]}, "test"))
    path = tmp_path_factory.mktemp("groups") / "log.parquet"
    pq.write_table(table, path, row_group_size=group_rows)
    source = make_config(path.parent).source(make_config(path.parent).preprocess.log)
    taken = {group for partition in plan_partitions(source, 1, window=window) for group in partition.groups}
    kept, num_outside = window.cut(table)
    assert len(kept) + num_outside == len(hours)
    places = np.asarray(kept[ROW_COLUMN]) if num_outside else np.arange(len(hours))
    assert {int(place) // group_rows for place in places} <= taken
