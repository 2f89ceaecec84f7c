"""A small trained workspace to score with: its tables and candidates, variants of its run, and how rankings compare."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import build
from pipeline.executor import InProcessExecutor
from pipeline.export.run import export
from pipeline.preprocess.run import preprocess
from pipeline.run_config import RunConfig
from pipeline.train.run import train

OUTPUTS = ["click", "like", "watch", "mood_good", "mood_bad", "joint_like"]
FUSION = "click * joint_like ** 0.5 + watch / 100"
NUM_REQUESTS = 24
UNKNOWN_ITEM, UNKNOWN_USER = 9_999, 8_888

FEATURES = [
    {"name": "user", "kind": "categorical"},
    {"name": "country", "kind": "categorical"},
    {"name": "age", "kind": "numeric", "null_indicator": True},
    {"name": "item", "kind": "categorical", "min_count": 2},
    {"name": "price", "kind": "numeric", "log1p": True, "null_indicator": True},
    {"name": "seller", "kind": "categorical", "num_hash_buckets": 16},
    {"name": "city", "kind": "categorical"},
    {"name": "tags", "kind": "multi_valued", "delimiter": ","},
    {"name": "battery", "kind": "numeric"},
    {"name": "hour", "kind": "categorical"},
    {"name": "history", "kind": "history", "table": "item", "max_length": 4},
]
TASKS = [
    {"name": "click", "kind": "binary", "label": "is_click"},
    {"name": "like", "kind": "binary", "label": "is_like", "space": "click"},
    {"name": "watch", "kind": "watch_time", "label": "seconds", "space": "click"},
    {"name": "mood", "kind": "multiclass", "label": "mood", "classes": {"good": "up", "bad": "down"}},
]
# A user's column is joined to a request, an item's to an item, and a seller's to what an item's table says.
TABLES = [
    {"path": "users.parquet", "key": "user"},
    {"path": "items.parquet", "key": "item"},
    {"path": "sellers.parquet", "key": "seller"},
]


def make_tables(rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    users, items = np.arange(1, 41), np.arange(1, 61)
    ages = np.where(users % 7 == 0, np.nan, 18.0 + users)
    tags = [["red,blue", "red", None, "blue,green,red"][item % 4] for item in items]
    prices = np.where(items % 9 == 0, np.nan, items * 1.5)
    sellers = [None if item % 11 == 0 else item % 6 for item in items.tolist()]
    num_rows = 3_000
    is_click = rng.random(num_rows) < 0.5
    return {
        "users": pd.DataFrame({"user": users, "country": [f"c{user % 5}" for user in users], "age": ages}),
        "items": pd.DataFrame({"item": items, "price": prices, "tags": tags, "seller": sellers}),
        "sellers": pd.DataFrame({"seller": range(6), "city": ["york", "bath", "hull"] * 2}),
        "log": pd.DataFrame(
            {
                **make_context(rng, num_rows),
                "item": rng.integers(1, 61, num_rows),
                "is_click": is_click.astype(int),
                "is_like": (is_click & (rng.random(num_rows) < 0.5)).astype(int),
                "seconds": is_click * rng.exponential(20, num_rows),
                "mood": rng.choice(["up", "down"], num_rows),
                "row_weight": rng.random(num_rows),
            }
        ),
    }


def make_context(rng: np.random.Generator, num_rows: int) -> dict[str, Any]:
    return {
        "request": np.arange(num_rows) + 1,
        "user": rng.integers(1, 41, num_rows),
        "hour": rng.integers(0, 24, num_rows),
        "battery": rng.random(num_rows),
        "history": [rng.integers(1, 61, rng.integers(0, 7)).tolist() for _ in range(num_rows)],
    }


def make_candidates() -> pd.DataFrame:
    """Sets of 12 items, in no order; one item and one user are unknown, one set is empty and one is null."""
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(make_context(rng, NUM_REQUESTS))
    frame["request"] += 10_000
    frame.loc[3, "user"] = UNKNOWN_USER
    frame["items"] = [rng.choice(60, 12, replace=False) + 1 for _ in range(NUM_REQUESTS)]
    frame.at[2, "items"] = np.array([5, UNKNOWN_ITEM, 7])
    frame.at[6, "items"] = np.array([], np.int64)
    frame.at[9, "items"] = None
    return frame


def make_workspace(inputs: Path) -> RunConfig:
    """The run that made a dataset, a checkpoint and its export below `inputs`, out of the tables beside them."""
    for name, frame in make_tables(np.random.default_rng(1)).items():
        frame.to_parquet(inputs / f"{name}.parquet")
    make_candidates().to_parquet(inputs / "candidates.parquet")
    data = {
        "workspace": str(inputs / "work"),
        "inputs": str(inputs),
        "schema": {
            "keys": {"user": "user", "item": "item", "request": "request"},
            "features": FEATURES,
            "tasks": TASKS,
            "weight": "row_weight",
        },
        "preprocess": {"log": {"path": "log.parquet"}, "tables": TABLES, "split": {"kind": "order"}},
        "model": {
            "front_end": {"embedding_dim": 4, "dense_width": 4},
            "body": {"kind": "mmoe", "num_experts": 2, "widths": [8]},
            "head": {"kind": "esmm"},
            "tower_widths": [4],
        },
        "train": {
            "device": "cpu",
            "max_epochs": 1,
            "global_batch_size": 512,
            "sparse_optimizer": {"learning_rate": 0.5},
        },
        "score": {
            "candidates": {"path": "candidates.parquet"},
            "items_column": "items",
            "fusion": FUSION,
            "top_k": 5,
        },
    }
    config = build(RunConfig, data, "test.yaml")
    preprocess(config, InProcessExecutor())
    train(config)
    export(config)
    return config


def changed(trained: RunConfig, tmp_path: Path, **sections: dict[str, Any]) -> RunConfig:
    """The trained run with fields of some sections changed, in a workspace of its own."""
    workspace = tmp_path / "work"
    workspace.mkdir(exist_ok=True)
    for folder in (trained.dataset_dir, trained.checkpoints_dir, trained.export_dir):
        if not (workspace / folder.name).exists():
            (workspace / folder.name).symlink_to(folder)
    data = trained.model_dump(mode="json", by_alias=True) | {"workspace": str(workspace)}
    for name, fields in sections.items():
        data[name] = data[name] | fields
    return build(RunConfig, data, "test.yaml")


def with_candidates(trained: RunConfig, tmp_path: Path, table: pa.Table, **fields: Any) -> RunConfig:
    """The trained run on other candidates."""
    group_rows = fields.pop("group_rows", None)
    pq.write_table(table, tmp_path / "other.parquet", row_group_size=group_rows)
    return changed(trained, tmp_path, score={"candidates": {"path": str(tmp_path / "other.parquet")}, **fields})


def candidate_table(**columns: pa.Array) -> pa.Table:
    """The usual candidates, some columns replaced."""
    table = pa.Table.from_pandas(make_candidates(), preserve_index=False).replace_schema_metadata()
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, values)
    return table


def read_ranked(folder: Path) -> pd.DataFrame:
    return pd.concat([pq.read_table(file).to_pandas() for file in sorted(folder.glob("part-*.parquet"))])


def assert_same_ranking(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """The same requests, ranks and items in the same order; numbers to the rounding of float32 batches."""
    assert list(one.columns) == list(other.columns)
    for name in ("request", "user", "rank", "item"):
        assert one[name].astype(str).tolist() == other[name].astype(str).tolist(), name
    for name in ("score", *OUTPUTS):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-6, err_msg=name)
