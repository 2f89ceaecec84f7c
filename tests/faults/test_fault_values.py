"""Values that training has not seen, numbers that are none, labels that are missing, and bad values in every file."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tampered import DATA_EXIT_CODE, gatehouse, one_line, read_shard

from pipeline.config import build
from pipeline.executor import InProcessExecutor
from pipeline.preprocess.profiles.statistics import read_statistics
from pipeline.preprocess.run import preprocess
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import DENSE_COLUMN
from pipeline.train.run import train
from pipeline.train.telemetry import read_history

NUM_ROWS = 4_000
NUM_FILES = 200
WEIRD = (math.nan, math.inf, -math.inf, 1e38, -1e38, 1e300)


def write_log(folder: Path, columns: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "log.parquet", row_group_size=NUM_ROWS // 4)


def small_config(folder: Path, **sections: Any) -> RunConfig:
    settings = {
        "workspace": str(folder / "work"),
        "inputs": str(folder),
        "schema": {
            "features": [{"name": "item", "kind": "categorical"}, {"name": "x", "kind": "numeric", "clip": [-9, 9]}],
            "tasks": [
                {"name": "click", "kind": "binary", "label": "click"},
                {"name": "stay", "kind": "regression", "label": "stay"},
            ],
        },
        "preprocess": {"log": {"path": "log.parquet"}, "split": {"kind": "order"}},
        "train": {"device": "cpu", "max_epochs": 2, "global_batch_size": 32, "log_every_steps": 1},
        **sections,
    }
    return build(RunConfig, settings, "the tests")


def columns_of(seed: int) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    return {
        "item": [f"old {number}" for number in draw.integers(0, 50, NUM_ROWS)],
        "x": draw.normal(size=NUM_ROWS),
        "click": draw.integers(0, 2, NUM_ROWS),
        "stay": draw.normal(size=NUM_ROWS),
    }


def test_the_rate_of_unseen_values_is_the_true_one(tmp_path: Path, fault_seed: int) -> None:
    columns = columns_of(fault_seed)
    columns["item"][:50] = [f"old {number}" for number in range(50)]
    is_new = np.random.default_rng(fault_seed).random(NUM_ROWS) < 0.3
    is_new[: NUM_ROWS * 8 // 10] = False
    columns["item"] = [
        f"new {row}" if new else item for row, (item, new) in enumerate(zip(columns["item"], is_new, strict=True))
    ]
    write_log(tmp_path, columns)
    config = small_config(tmp_path)
    preprocess(config, InProcessExecutor())
    told = read_statistics(config.dataset_dir)["features"]["item"]["unseen"]
    split_of_row = np.repeat(["train", "validation", "test"], [NUM_ROWS * 8 // 10, NUM_ROWS // 10, NUM_ROWS // 10])
    assert told == {split: int(is_new[split_of_row == split].sum()) for split in ("train", "validation", "test")}


def test_numbers_that_are_none_are_counted_and_no_loss_is_one_of_them(tmp_path: Path, fault_seed: int) -> None:
    columns = columns_of(fault_seed)
    draw = np.random.default_rng(fault_seed)
    planted = draw.choice(NUM_ROWS, NUM_ROWS // 2, replace=False)
    columns["x"][planted] = draw.choice(WEIRD, len(planted))
    write_log(tmp_path, columns)
    config = small_config(tmp_path)
    index = preprocess(config, InProcessExecutor())
    counts = read_statistics(config.dataset_dir)["features"]["x"]["non_finite"]
    assert sum(counts.values()) == np.sum(~(np.abs(columns["x"]) <= np.finfo(np.float32).max))
    for shard in index.shards:
        dense = read_shard(config.dataset_dir / shard.path)[DENSE_COLUMN].combine_chunks().flatten().to_numpy()
        assert np.isfinite(dense).all()
        assert np.abs(dense).max() < 100
    train(config)
    losses = [loss for record in read_history(config.workspace_dir) for loss in record["losses"].values()]
    assert len(losses) >= 2 * 200
    assert np.isfinite(losses).all()


def test_a_bad_value_in_every_file_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    for number in range(NUM_FILES):
        columns = {name: list(values[:5]) for name, values in columns_of(number).items()} | {"click": [0, 1, 7, 1, 0]}
        pq.write_table(pa.table(columns), tmp_path / "log" / f"part-{number:03d}.parquet")
    for cluster in ({}, {"num_cpus": 2}):
        config = small_config(
            tmp_path, preprocess={"log": {"path": "log"}, "split": {"kind": "order"}}, cluster=cluster
        )
        done = gatehouse("preprocess", config)
        assert done.returncode == DATA_EXIT_CODE
        assert "part-000.parquet, row 3" in one_line(done.stderr)
        assert len((done.stdout + done.stderr).splitlines()) <= 10
