"""The whole stage with staged tables: the bytes that tables in memory give, also after a kill."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from killed_runs import Killed, content_of
from small_joins import make_all_tables_large, users
from small_logs import log_columns, make_config, run, schema_section, write_rows

from pipeline.executor import InProcessExecutor
from pipeline.preprocess.joins import staging as join_staging
from pipeline.preprocess.restart import STAGING_FOLDER
from pipeline.preprocess.run import preprocess
from pipeline.run_config import RunConfig


def prepare(folder: Path) -> RunConfig:
    """The small log with a table of users, some unknown, and one of the cities that the former brings in."""
    columns = log_columns() | {"user": [row * 7 % 800 for row in range(20)]}
    del columns["city"]
    write_rows(folder / "log.parquet", columns)
    table = users()
    table["city"] = [["york", "bath", None][key % 3] for key in table["user"]]
    write_rows(folder / "users.parquet", table)
    write_rows(folder / "cities.csv", {"city": ["york", "bath"], "size": [9, 5]})
    schema = schema_section()
    schema["features"] += [
        {"name": "age", "kind": "numeric"},
        {"name": "seen", "kind": "history", "table": "item"},
        {"name": "size", "kind": "numeric"},
    ]
    tables = [{"path": "users.parquet", "key": "user"}, {"path": "cities.csv", "key": "city"}]
    return make_config(folder, schema=schema, tables=tables, rows_per_partition=3)


def test_a_dataset_with_staged_tables_has_the_bytes_of_one_with_tables_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = prepare(tmp_path)
    run(config)
    expected = content_of(config.dataset_dir)
    make_all_tables_large(monkeypatch)
    for executor in (InProcessExecutor(), InProcessExecutor(3)):
        preprocess(config, executor, overwrite=True)
        assert content_of(config.dataset_dir) == expected
    assert not (config.dataset_dir / STAGING_FOLDER).exists()


def test_a_restart_stages_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = prepare(tmp_path)
    run(config)
    expected = content_of(config.dataset_dir)
    make_all_tables_large(monkeypatch)
    done: list[tuple[str, Any]] = []
    for name in ("read_sorted", "merge_range"):
        real = getattr(join_staging, name)

        def counted(*arguments: Any, real: Any = real, name: str = name) -> pa.RecordBatch:
            done.append((name, arguments[-1] if name == "merge_range" else arguments[-2:]))
            return real(*arguments)

        monkeypatch.setattr(join_staging, name, counted)
    shutil.rmtree(config.dataset_dir)
    run(config)
    everything = list(done)
    num_parts = sum(name == "read_sorted" for name, _ in everything) - 1  # of the users: the cities are one
    assert num_parts > 5
    for num_items in (3, num_parts + 4, len(everything) - 1, len(everything) + 3):
        shutil.rmtree(config.dataset_dir)
        done.clear()
        with pytest.raises(KeyboardInterrupt):
            preprocess(config, Killed(num_items))
        # A file that a kill left half written.
        folder = config.dataset_dir / STAGING_FOLDER / "table-000"
        (folder / ".range-00001.arrow.77.partial").write_bytes(b"half")
        run(config)
        assert sorted(done, key=str) == sorted(everything, key=str)
        assert content_of(config.dataset_dir) == expected
