"""Small tables, joined from memory or staged in small ranges, and what pandas makes of the same join."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from small_logs import write_rows

from pipeline.executor import Executor, InProcessExecutor
from pipeline.preprocess.columns.hashing import hash64
from pipeline.preprocess.config import TableConfig
from pipeline.preprocess.joins import join
from pipeline.preprocess.joins import rows as join_rows
from pipeline.preprocess.joins import table as join_table
from pipeline.preprocess.joins.join import Joined, join_tables, open_tables, plan_columns
from pipeline.preprocess.joins.staging import stage_table

SMALL_BYTES = 2_000
SMALL_ROWS = 20
NUM_KEYS = 300
each_form = pytest.mark.parametrize("form", ["memory", "staged"])


def users() -> dict[str, Any]:
    """Every second key, with a column of each sort."""
    keys = np.random.default_rng(0).permutation(NUM_KEYS) * 2
    return {
        "user": keys.tolist(),
        "age": [int(key) % 90 if key % 3 else None for key in keys],
        "name": [f"name {key}" for key in keys],
        "seen": [[int(key), 1] for key in keys],
    }


def make_table(folder: Path, columns: dict[str, Any], name: str = "users.parquet", **settings: Any) -> TableConfig:
    """A table whose first column is its key."""
    return TableConfig(path=str(write_rows(folder / name, columns)), key=next(iter(columns)), **settings)


def join_to(
    log: dict[str, Any] | pa.Table,
    tables: list[TableConfig],
    needed: list[str],
    time: str | None = None,
    staging: Path | None = None,
    executor: Executor | None = None,
) -> Joined:
    """The log with its tables; they are staged where a folder is given and they are large."""
    rows = pa.table(log)
    plan = plan_columns(rows.column_names, "log.csv", tables, needed, time)
    opened = open_tables(tables, plan, time, staging)
    for table in opened:
        stage_table(table, executor or InProcessExecutor())
    return join_tables(rows.select(list(plan.log)), opened, "log.csv")


def make_all_tables_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every table is staged, in partitions and ranges of few rows."""
    monkeypatch.setattr(join, "BROADCAST_BYTES", 0)
    monkeypatch.setattr(join_rows, "RANGE_BYTES", SMALL_BYTES)
    monkeypatch.setattr(join_rows, "PARTITION_ROWS", SMALL_ROWS)


def keep_tables(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every table is in memory, as small ones are, or staged."""
    if form == "staged":
        make_all_tables_large(monkeypatch)


def make_hashes_collide(monkeypatch: pytest.MonkeyPatch, num_hashes: int = 3) -> None:
    """Keys have only so many hashes, which are spread over all ranges."""

    def few(texts: pa.StringArray, seed: int = 0) -> np.ndarray:
        return hash64(texts, seed) % np.uint64(num_hashes) * np.uint64(((1 << 64) - 1) // num_hashes)

    for module in (join_rows, join_table):
        monkeypatch.setattr(module, "hash64", few)


def random_keys(rng: np.random.Generator, num_rows: int, num_keys: int, kind: str) -> pd.Series:
    """Integers or texts, a tenth of them null."""
    numbers = rng.integers(0, num_keys, num_rows)
    keys = pd.Series(numbers, dtype="Int64" if kind == "integer" else "string")
    if kind == "text":
        keys = "user " + keys
    return keys.mask(rng.random(num_rows) < 0.1)


def assert_same_rows(found: Joined, expected: pd.DataFrame, columns: list[str]) -> None:
    for column in columns:
        theirs = expected[column].astype(object)
        assert found.rows[column].to_pylist() == theirs.where(theirs.notna(), None).tolist(), column
