"""What the tests of a sweep share: a small trained run with a sweep, and that run with another one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from changed_settings import merged

from pipeline.config import build
from pipeline.run_config import RunConfig
from pipeline.train.run import train

SWEEP: dict[str, Any] = {
    "formula": "click ** a * joint_purchase ** b",
    "parameters": {"a": [0, 1, 2], "b": [0, 0.5]},
    "k": 3,
    "values": {"click": 1, "purchase": 20, "watch": 0.01},
}

Change = Callable[..., RunConfig]


def train_swept(settings: dict[str, Any], dataset: Path, workspace: Path) -> RunConfig:
    workspace.mkdir()
    (workspace / "dataset").symlink_to(dataset)
    settings = merged(settings, {"workspace": str(workspace), "evaluate": {"num_replicates": 20, "batch_size": 256}})
    config = build(RunConfig, merged(settings, {"score": {"sweep": SWEEP}}), "the tests")
    train(config)
    return config


def changes_of(trained: RunConfig, folder: Path) -> Change:
    """The trained run with another sweep, in a workspace of its own."""

    def change(name: str = "run", fusion: str = "click * purchase ** 0.5", **section: Any) -> RunConfig:
        workspace = folder / name
        workspace.mkdir()
        for shared in (trained.dataset_dir, trained.checkpoints_dir):
            (workspace / shared.name).symlink_to(shared)
        settings = trained.model_dump(mode="json", by_alias=True)
        own = {**SWEEP, **section}
        settings["score"] |= {"fusion": fusion, "sweep": {key: own[key] for key in own if own[key] is not None}}
        return build(RunConfig, {**settings, "workspace": str(workspace)}, "the tests")

    return change


def files_of(config: RunConfig) -> dict[str, bytes]:
    folder = config.workspace_dir / "sweep"
    return {name: (folder / name).read_bytes() for name in ("sweep.json", "sweep.html")}
