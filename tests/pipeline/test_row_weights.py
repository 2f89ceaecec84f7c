"""Row weights and class labels from the raw log through training: the losses of a run against its own predictions."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.config import build
from pipeline.executor import InProcessExecutor
from pipeline.preprocess.run import preprocess
from pipeline.run_config import RunConfig
from pipeline.shards.assignment import SampleOrder
from pipeline.shards.manifest import read_index
from pipeline.shards.reader import ShardReader
from pipeline.train.checkpoints.checkpoint import read_manifest
from pipeline.train.predictor import Predictor
from pipeline.train.run import train

NUM_ROWS = 1_500
MOODS = {"warm": 2, "cold": 0, "hot": 1}


def make_config(folder: Path) -> RunConfig:
    rng = np.random.default_rng(4)
    log = pd.DataFrame({"x": rng.normal(size=NUM_ROWS), "weight": rng.choice([0.0, 0.5, 4.0], NUM_ROWS)})
    log["click"] = (rng.random(NUM_ROWS) < 0.5).astype(int)
    log["mood"] = rng.integers(0, 3, NUM_ROWS)
    # What the rows that count do is not what the others do.
    log.loc[log["weight"] == 4.0, ["click", "mood"]] = 1, 2
    log.to_parquet(folder / "log.parquet")
    data = {
        "workspace": str(folder / "work"),
        "inputs": str(folder),
        "schema": {
            "features": [{"name": "x", "kind": "numeric"}],
            "tasks": [
                {"name": "click", "kind": "binary", "label": "click"},
                {"name": "mood", "kind": "multiclass", "label": "mood", "classes": MOODS, "space": "click"},
            ],
            "weight": "weight",
        },
        "preprocess": {"log": {"path": "log.parquet"}, "split": {"kind": "order"}},
        "model": {"body": {"kind": "shared_bottom", "widths": [4]}, "tower_widths": [4]},
        "train": {
            "device": "cpu",
            "max_epochs": 4,
            "global_batch_size": 32,
            "num_lanes": 4,
            "dense_optimizer": {"kind": "adam", "learning_rate": 0.01},
        },
    }
    return build(RunConfig, data, "the tests")


def test_the_loss_of_a_run_is_the_weighted_one_and_so_is_what_it_learns(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    preprocess(config, InProcessExecutor())
    checkpoint = train(config)
    index = read_index(config.dataset_dir)
    shards = index.of_split("validation")
    order = SampleOrder(tuple(shard.rows for shard in shards), 1, NUM_ROWS, NUM_ROWS, 1, seed=0, shuffle=False)
    (table,) = ShardReader(config.dataset_dir, shards, order).batches(epoch=0)
    outputs = Predictor(config, index, checkpoint, NUM_ROWS).predict(table)

    # The last tenth but one of the log, as pandas reads it.
    log = pd.read_parquet(tmp_path / "log.parquet").iloc[1_200:1_350]
    weight, click = log["weight"].to_numpy(), log["click"].to_numpy()
    click_loss = -np.log(np.where(click == 1, outputs["click"], 1 - outputs["click"]))
    chance = np.select([log["mood"] == value for value in MOODS.values()], [outputs[f"mood_{name}"] for name in MOODS])
    mood_loss = -np.log(chance[click == 1])
    losses = read_manifest(checkpoint, verify=False).validation_losses
    assert losses == pytest.approx(
        {
            "click": np.average(click_loss, weights=weight),
            "mood": np.average(mood_loss, weights=weight[click == 1]),
        },
        rel=1e-5,
    )
    # Half of the rows without weight are clicked, but 94 % of the weight is on clicks, and most of it on warm moods.
    assert outputs["click"].mean() == pytest.approx(0.94, abs=0.04)
    assert outputs["mood_warm"].mean() > 0.85
