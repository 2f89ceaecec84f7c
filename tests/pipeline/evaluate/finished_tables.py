"""A small finished prediction table, the configuration that reads it, and what is read."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import build
from pipeline.evaluate.finished_table import open_finished_table
from pipeline.evaluate.prediction_table import PredictionTable, map_part
from pipeline.evaluate.scoring import read_finished_table
from pipeline.executor import InProcessExecutor
from pipeline.run_config import RunConfig

SCHEMA: dict[str, Any] = {
    "keys": {"user": "user", "request": "request", "time": "time"},
    "features": [{"name": "age", "kind": "numeric"}],
    "tasks": [
        {"name": "click", "kind": "binary", "label": "clicked"},
        {"name": "buy", "kind": "binary", "label": "bought", "space": "click"},
        {"name": "mood", "kind": "multiclass", "label": "mood", "classes": {"bad": "b", "good": "g"}},
        {"name": "watch", "kind": "watch_time", "label": "seconds", "space": "buy"},
    ],
}
NUM_ROWS = 40


def finished_columns() -> dict[str, list[Any]]:
    rows = range(NUM_ROWS)
    return {
        "user": [row % 7 for row in rows],
        "request": [row // 4 for row in rows],
        "time": [1_736_121_600 + 6 * 3600 * row for row in rows],
        "age": [None if row == 5 else row for row in rows],
        "city": [["york", "bath"][row % 2] for row in rows],
        "clicked": [row % 2 for row in rows],
        "bought": [row % 4 == 1 for row in rows],
        "mood": [None if row == 3 else "bg"[row % 2] for row in rows],
        "seconds": [row / 2 if row % 4 == 1 else None for row in rows],
        "prediction_click": [row / 64 for row in rows],
        "prediction_buy": [row / 128 for row in rows],
        "prediction_mood_bad": [0.25] * NUM_ROWS,
        "prediction_mood_good": [0.75] * NUM_ROWS,
        "prediction_watch": [float(row) if row % 4 == 1 else None for row in rows],
    }


def finished_config(folder: Path, schema: Any = SCHEMA, columns: Any = None, **evaluate: Any) -> RunConfig:
    table = pa.table({name: pa.array(values) for name, values in (columns or finished_columns()).items()})
    pq.write_table(table, folder / "table.parquet", row_group_size=16)
    predictions = {"path": "table.parquet", **evaluate.pop("predictions", {})}
    settings = {
        "workspace": str(folder / "run"),
        "inputs": str(folder),
        "schema": schema,
        "preprocess": {"log": {"path": "log"}, "split": {"kind": "order"}},
        "evaluate": {"predictions": predictions, **evaluate},
    }
    return build(RunConfig, settings, "the tests")


def read(config: RunConfig) -> PredictionTable:
    return read_finished_table(config, open_finished_table(config), InProcessExecutor(), None)


def rows_of(table: PredictionTable) -> dict[str, list[Any]]:
    """The columns of all parts, in the order of the predictions of clicks, with null for NaN."""
    rows = pa.Table.from_batches(map(map_part, table.parts)).sort_by("prediction_click").to_pydict()
    return {name: [None if value != value else value for value in column] for name, column in rows.items()}
