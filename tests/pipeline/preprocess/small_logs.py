"""A small log with every kind of column, in every format, the configuration that reads it, and what a run wrote."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from pipeline.config import build
from pipeline.executor import InProcessExecutor
from pipeline.preprocess.run import preprocess
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import DatasetIndex, Split

NUM_ROWS = 20


def log_columns() -> dict[str, list[Any]]:
    """Twenty rows, one per minute; the last two thirds of the items are rare."""
    rows = range(NUM_ROWS)
    return {
        "user": [row % 4 for row in rows],
        "item": [row % 3 if row % 2 else 100 + row for row in rows],
        "minute": list(rows),
        "city": [None if row % 7 == 0 else ["york", "bath", "hull"][row % 3] for row in rows],
        "price": [None if row == 3 else row + 0.5 for row in rows],
        "tags": [None if row == 4 else "red, blue" if row % 2 else "red" for row in rows],
        "click": [row % 2 for row in rows],
        "like": [int(row % 4 == 1) for row in rows],
        "dwell": [None if row == 5 else float(row) for row in rows],
        "mood": [None if row == 6 else ["cold", "warm", "hot"][row % 3] for row in rows],
        "share": [row % 4 / 2 for row in rows],
    }


def with_value(column: str, row: int, value: Any) -> dict[str, list[Any]]:
    """The small log with another value in one place."""
    columns = log_columns()
    columns[column][row] = value
    return columns


def schema_section() -> dict[str, Any]:
    return {
        "keys": {"user": "user", "item": "item", "time": "minute"},
        "features": [
            {"name": "item", "kind": "categorical", "min_count": 2},
            {"name": "city", "kind": "categorical"},
            {"name": "tags", "kind": "multi_valued", "delimiter": ","},
            {"name": "user_bucket", "kind": "categorical", "column": "user", "num_hash_buckets": 8},
            {"name": "price", "kind": "numeric", "null_indicator": True},
        ],
        "tasks": [
            {"name": "click", "kind": "binary", "label": "click"},
            {"name": "like", "kind": "binary", "label": "like", "space": "click"},
            {"name": "dwell", "kind": "regression", "label": "dwell"},
        ],
    }


def every_kind_section() -> dict[str, Any]:
    """The schema with a task of each kind, and row weights."""
    tasks = [
        {"name": "click", "kind": "binary", "label": "click"},
        {
            "name": "mood",
            "kind": "multiclass",
            "label": "mood",
            "classes": {"warm": "warm", "hot": "hot", "cold": "cold"},
        },
        {"name": "stay", "kind": "watch_time", "label": "dwell", "space": "click"},
        {"name": "cost", "kind": "regression", "label": "minute"},
    ]
    return schema_section() | {"tasks": tasks, "weight": "share"}


def write_rows(path: Path, columns: dict[str, Any], group_rows: int = 8) -> Path:
    """Writes the columns in the format that the name of `path` ends in."""
    table = pa.table(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(table, path, row_group_size=group_rows)
        return path
    if name.endswith(".arrow"):
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=group_rows)
        return path
    if name.endswith(".csv"):
        sink = pa.BufferOutputStream()
        pyarrow.csv.write_csv(table, sink)
        data = sink.getvalue().to_pybytes()
    else:
        data = "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def make_config(folder: Path, log: str = "log.parquet", **sections: Any) -> RunConfig:
    """A run that reads `log` in `folder`; `schema` and fields of `preprocess` can be given."""
    schema = sections.pop("schema", schema_section())
    split = {"kind": "time", "column": "minute", "validation_from": 14, "test_from": 17}
    section = {"log": {"path": log}, "split": split, "rows_per_partition": 8} | sections
    data = {"workspace": str(folder / "work"), "inputs": str(folder), "schema": schema, "preprocess": section}
    return build(RunConfig, data, "test.yaml")


def prepare(folder: Path, columns: dict[str, Any] | None = None, **sections: Any) -> RunConfig:
    """Writes a log, the small one if none is given, and makes the configuration of a run that reads it."""
    write_rows(folder / "log.parquet", columns or log_columns())
    return make_config(folder, **sections)


def run(config: RunConfig, overwrite: bool = False) -> DatasetIndex:
    return preprocess(config, InProcessExecutor(), overwrite=overwrite)


def fails(
    folder: Path, error: type[Exception], message: str, columns: dict[str, Any] | None = None, **sections: Any
) -> None:
    """A run as `prepare` makes it ends with this error."""
    config = prepare(folder, columns, **sections)
    with pytest.raises(error, match=message):
        run(config)


def statistics(config: RunConfig) -> Any:
    return json.loads((config.dataset_dir / "statistics.json").read_bytes())


def vocabulary(config: RunConfig, table: str) -> dict[str, int]:
    """How often each value of a table was counted, in the order of their rows."""
    with pa.ipc.open_file(config.dataset_dir / "vocabularies" / f"{table}.arrow") as reader:
        columns = reader.read_all().to_pydict()
    return dict(zip(columns["value"], columns["count"], strict=True))


def read_split(config: RunConfig, index: DatasetIndex, split: Split) -> pa.Table:
    """All rows of a split, in the order of its shards."""
    shards = []
    for shard in index.of_split(split):
        with pa.ipc.open_file(config.dataset_dir / shard.path) as reader:
            shards.append(reader.read_all())
    return pa.concat_tables(shards)
