"""A trained run on the small simulated log, and others that share its dataset and checkpoints."""

import shutil
from pathlib import Path
from typing import Any

from changed_settings import merged

from pipeline.config import build
from pipeline.run_config import RunConfig
from pipeline.train.run import train


def train_run(settings: dict[str, Any], dataset: Path, workspace: Path, **changes: Any) -> RunConfig:
    """The configuration of a run that was trained; its dataset is a link."""
    workspace.mkdir(parents=True)
    (workspace / "dataset").symlink_to(dataset)
    config = build(RunConfig, merged(settings, {"workspace": str(workspace), **changes}), "the tests")
    train(config)
    return config


def other_run(trained: RunConfig, workspace: Path, **changes: Any) -> RunConfig:
    """A run in an empty workspace with the dataset and the checkpoints of a trained one."""
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.mkdir(parents=True)
    for folder in (trained.dataset_dir, trained.checkpoints_dir):
        (workspace / folder.name).symlink_to(folder)
    settings = trained.model_dump(mode="json", by_alias=True)
    return build(RunConfig, merged(settings, {"workspace": str(workspace), **changes}), "the tests")
