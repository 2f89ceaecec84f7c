"""Every kind of feature through the whole pipeline: preprocessed, trained on, evaluated and scored with."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from pipeline.config import build
from pipeline.executor import InProcessExecutor
from pipeline.run import run
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import read_index
from pipeline.train.checkpoints.checkpoint import best_checkpoint
from pipeline.train.checkpoints.reader import load_tensors, saved_sizes

NEW_KINDS: list[dict[str, Any]] = [
    {"name": "country_device", "kind": "crossed", "columns": ["country", "device"], "num_hash_buckets": 50},
    {"name": "weekday", "kind": "time_part", "column": "timestamp", "part": "weekday"},
    {"name": "duration_bucket", "kind": "bucketed", "column": "duration_seconds", "num_buckets": 8},
    {"name": "age_group", "kind": "bucketed", "column": "age", "boundaries": [18, 30, 50]},
    {"name": "weighted_tags", "kind": "weighted_multi_valued", "column": "tags", "delimiter": ","},
    {"name": "filled_age", "kind": "numeric", "column": "age", "fill": 0, "log1p": True},
]


def test_every_kind_of_feature_is_trained_and_scored(demo_settings: dict[str, Any], tmp_path: Path) -> None:
    schema = demo_settings["schema"]
    settings = {
        **demo_settings,
        "workspace": str(tmp_path / "run"),
        "schema": schema | {"features": [*schema["features"], *NEW_KINDS]},
    }
    config = build(RunConfig, settings, "the tests")
    report = run(config, InProcessExecutor(2), lambda _: None)
    rows = read_index(config.dataset_dir).table_rows
    assert (rows["country_device"], rows["weekday"], rows["duration_bucket"], rows["age_group"]) == (52, 9, 10, 6)
    (click, *_) = report["tasks"]
    assert click["metrics"]["auc"]["value"] > 0.55
    ranked = [pq.read_table(path) for path in config.scores_dir.glob("*.parquet")]
    assert sum(map(len, ranked)) > 0
    checkpoint = best_checkpoint(config.checkpoints_dir)
    tensors = {name: torch.zeros(size) for name, size in saved_sizes(checkpoint).items()}
    load_tensors(checkpoint, tensors, is_distributed=False)
    for feature in NEW_KINDS[:5]:
        name = f"embedding_bags.{feature['name']}.weight.{feature['name']}.momentum1"
        (state,) = (value for key, value in tensors.items() if key.endswith(name))
        assert (state > 0).sum() >= 3, feature["name"]
