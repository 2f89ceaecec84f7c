"""A trained run to export, its export, and other runs of the same checkpoint."""

from pathlib import Path
from typing import Any, NamedTuple

from changed_settings import merged

from pipeline.config import build
from pipeline.export.run import export
from pipeline.run_config import RunConfig
from pipeline.train.run import train


class Trained(NamedTuple):
    config: RunConfig
    checkpoint: Path


def train_on(dataset: Path, demo_settings: dict[str, Any], workspace: Path) -> Trained:
    workspace.mkdir()
    (workspace / "dataset").symlink_to(dataset)
    changes = {"workspace": str(workspace), "evaluate": {"num_replicates": 10}, "export": {"parity_rows": 300}}
    config = build(RunConfig, merged(demo_settings, changes), "the tests")
    return Trained(config, train(config))


def export_anew(trained: Trained) -> Path:
    folder, is_new = export(trained.config)
    assert is_new
    return folder


def other(trained: Trained, workspace: Path, **changes: Any) -> RunConfig:
    """A run in an empty workspace with the dataset and the checkpoints of the trained one."""
    workspace.mkdir()
    for folder in (trained.config.dataset_dir, trained.config.checkpoints_dir):
        (workspace / folder.name).symlink_to(folder)
    settings = trained.config.model_dump(mode="json", by_alias=True)
    return build(RunConfig, merged(settings, {"workspace": str(workspace), **changes}), "the tests")
