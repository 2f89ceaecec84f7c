"""Brings a run to where an earlier attempt of it, or an earlier run, left off."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from pipeline.files import write_json
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import DatasetIndex
from pipeline.train.checkpoints.checkpoint import (
    REMEDY,
    CheckpointManifest,
    DamagedCheckpointError,
    damage_of,
    list_checkpoints,
    read_manifest,
    set_aside,
)
from pipeline.train.checkpoints.reader import load_tensors
from pipeline.train.checkpoints.warm_start import WARM_START_NAME, warm_start
from pipeline.train.guards.roll_call import RollCall


@dataclass
class Position:
    """Where a run stands: `epoch` and `step_in_epoch` are those of the next step, `step` counts all trained ones."""

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    best_validation_total: float | None = None
    validations_without_improvement: int = 0


def resume(folder: Path, state: Mapping[str, Any], roll_call: RollCall, *, fallback: bool) -> Position | None:
    """Fills the tensors of `state` from the newest checkpoint of a run, if there is one. All ranks call it.

    With `fallback` a damaged newest checkpoint is set aside, and the one before it is used.

    Raises:
        DamagedCheckpointError: the newest checkpoint is damaged; on all ranks.
    """
    while present := list_checkpoints(folder):
        newest = present[-1]
        manifest = read_manifest(newest)
        damage = _damage(newest, manifest, roll_call)
        if not damage:
            load_tensors(newest, state, is_distributed=True)
            return Position(
                manifest.step,
                manifest.epoch,
                manifest.step_in_epoch,
                manifest.best_validation_total,
                manifest.validations_without_improvement,
            )
        if not fallback:
            raise DamagedCheckpointError(damage, REMEDY)
        if dist.get_rank() == 0:
            set_aside(newest)
        dist.barrier()
    return None


def start_warm(
    config: RunConfig, state: Mapping[str, Any], table_of: Mapping[str, str], index: DatasetIndex, roll_call: RollCall
) -> None:
    """Fills what fits of `state` from the checkpoint of an earlier run, which the configuration names. A collective.

    Raises:
        ArtifactError: there is no such checkpoint, it is damaged, or nothing of it fits.
    """
    checkpoint = Path(config.train.warm_start or "")
    manifest = read_manifest(checkpoint)
    if damage := _damage(checkpoint, manifest, roll_call):
        raise DamagedCheckpointError(damage, "give another train.warm_start")
    report = warm_start(checkpoint, manifest, state, table_of, index, config.dataset_dir)
    if dist.get_rank() == 0:
        write_json(config.workspace_dir / WARM_START_NAME, report)


def _damage(checkpoint: Path, manifest: CheckpointManifest, roll_call: RollCall) -> str:
    """What is wrong with a checkpoint's files, or ""; each rank hashes a part of them."""
    damage = damage_of(checkpoint, manifest, dist.get_rank(), dist.get_world_size())
    return next(filter(None, roll_call.gather(damage)), "")
