"""Small shards whose every column follows from the key of its row, a whole dataset of them, and a reader."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import build
from pipeline.preprocess.config import Compression
from pipeline.schema import Schema
from pipeline.shards.assignment import SampleOrder
from pipeline.shards.manifest import DatasetIndex, LabelStatistics, ShardEntry, shard_schema, write_index
from pipeline.shards.reader import ShardReader
from pipeline.shards.writer import write_shard

TABLE_ROWS = {"user": 10_000, "tags": 2**31 + 1}


def make_schema(**task: Any) -> Schema:
    section = {
        "features": [
            {"name": "user", "kind": "categorical"},
            {"name": "tags", "kind": "multi_valued"},
            {"name": "age", "kind": "numeric"},
        ],
        "tasks": [
            {"name": "click", "kind": "binary", "label": "click", **task},
            {"name": "like", "kind": "binary", "label": "like", "space": "click"},
        ],
    }
    return build(Schema, section, "the tests")


def make_table(first: int, rows: int) -> pa.Table:
    """Rows whose every column follows from their key."""
    keys = range(first, first + rows)
    schema = shard_schema(make_schema(), TABLE_ROWS, {"row": pa.int64()})
    columns = [
        pa.array(keys, pa.int32()),
        pa.array([[2**31 - key] * (key % 3) for key in keys], pa.list_(pa.int64())),
        pa.array([[key / 2] for key in keys], pa.list_(pa.float32(), 1)),
        pa.array([[float(key % 2), None] for key in keys], pa.list_(pa.float32(), 2)),
        pa.array(keys, pa.int64()),
    ]
    return pa.table(columns, schema=schema)


def write_dataset(folder: Path, shard_rows: tuple[int, ...], compression: Compression = "none") -> list[ShardEntry]:
    """Shards whose keys count through all rows of the split."""
    firsts = np.cumsum((0, *shard_rows))
    return [
        write_shard(folder / f"train-{place:05d}.arrow", make_table(int(first), rows), "train", compression)
        for place, (first, rows) in enumerate(zip(firsts, shard_rows, strict=False))
    ]


def write_whole_dataset(folder: Path) -> DatasetIndex:
    schema = make_schema()
    statistics = LabelStatistics(rows=1, mean=0.5, deviation=0.5)
    index = DatasetIndex(
        schema_fingerprint=schema.fingerprint(),
        data_schema=schema,
        vocabulary_version="v",
        table_rows=TABLE_ROWS,
        label_statistics={"click": statistics, "like": statistics},
        time_range=("2025-01-01", "2025-01-02"),
        shards=tuple(write_dataset(folder, (30, 12))),
    )
    write_index(folder, index)
    return index


def open_shards(folder: Path, shards: tuple[ShardEntry, ...]) -> ShardReader:
    return ShardReader(folder, shards, SampleOrder(tuple(s.rows for s in shards), 1, 4, 4, 2, seed=0))
