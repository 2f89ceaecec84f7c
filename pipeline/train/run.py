"""The train stage: checks, then one process or a Ray Train worker group, then the checkpoint to use."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from pipeline.assemble import check_model, make_balancer, table_rows, tasks_of
from pipeline.config import dump
from pipeline.errors import ArtifactError, ConfigError, UsageError
from pipeline.executor import Progress
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import DatasetIndex, check_schema
from pipeline.shards.remote import fetch_index, fetch_shards
from pipeline.train.batches import ROWS_FOLDER
from pipeline.train.checkpoints.checkpoint import (
    CheckpointManifest,
    DamagedCheckpointError,
    best_checkpoint,
    list_checkpoints,
    read_manifest,
    remove_partial,
    set_aside,
)
from pipeline.train.checkpoints.warm_start import WARM_START_NAME
from pipeline.train.device import rank_device
from pipeline.train.guards.stopping import Signals, on_sigterm
from pipeline.train.rank import TRAINING_SPLITS, run_fingerprint, train_rank
from pipeline.train.ray_group import STOP_NAME, train_on_ray
from pipeline.train.tables.settings import check_table_settings, table_settings
from pipeline.train.telemetry import INSPECTIONS_NAME, METRICS_NAME
from pipeline.train.trainer import STACKS_FOLDER


def train(
    config: RunConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    fallback: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Trains to the end and returns the folder of the best checkpoint.

    With `fallback`, a resumed run sets a damaged newest checkpoint aside and goes on from the one before it.

    Raises:
        UsageError: the workspace holds checkpoints and neither `resume` nor `overwrite` was asked for.
        ConfigError, ArtifactError: the configuration, the dataset or a checkpoint is wrong.
        StoppedError: SIGTERM arrived; there is a checkpoint of the last step.
        TrainingError, StorageError: training cannot go on.
    """
    check_model(config.data_schema, config.model)
    check_training(config)
    index = fetch_index(config.dataset_dir, config.remote_dataset)
    check_schema(index, config.data_schema, config.dataset_dir)
    table_rows(index, config.model)
    num_ranks = _num_ranks(config)
    _prepare_folder(config, index, resume=resume, overwrite=overwrite, fallback=fallback)
    shards = [shard for split in TRAINING_SPLITS for shard in index.of_split(split)]
    fetch_shards(config.dataset_dir, config.remote_dataset, shards, progress)
    with on_sigterm() as stop:
        if num_ranks == 1:
            with one_rank_group(config):
                train_rank(config, Signals(stop.is_set), fallback=fallback, progress=progress)
        else:
            train_on_ray(config, num_ranks, stop, fallback=fallback, progress=progress)
    return best_checkpoint(config.checkpoints_dir)


def check_training(config: RunConfig) -> None:
    """Checks what the train section says of the tables against the device, before any work is done.

    Raises:
        ConfigError: a setting that would be ignored, or two that do not go together.
    """
    owners = config.data_schema.table_owners()
    attention = config.model.front_end.attention
    tables_of = {feature.name: feature.table_name for feature in config.data_schema.sparse_features}
    attended = {tables_of[history] for history in attention}
    settings = table_settings(owners, config.train)
    check_table_settings(settings, rank_device(config.train).type, attended)
    balancer = make_balancer(config.model, tasks_of(config.data_schema, config.model, None))
    if config.train.pipeline == "sparse_dist" and balancer.needs_losses_after:
        raise ConfigError(
            f"train.pipeline sparse_dist does not go with model.balancer {config.model.balancer.kind}, which looks at "
            "each batch twice",
            "set train.pipeline to auto or plain, or choose another balancer",
        )


def _prepare_folder(config: RunConfig, index: DatasetIndex, *, resume: bool, overwrite: bool, fallback: bool) -> None:
    folder = config.checkpoints_dir
    if overwrite:
        if config.train.warm_start and Path(config.train.warm_start).resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                f"train.warm_start {config.train.warm_start} lies in {folder}, which --overwrite removes",
                "choose another workspace for this run",
            )
        shutil.rmtree(folder, ignore_errors=True)
        for name in (METRICS_NAME, INSPECTIONS_NAME, WARM_START_NAME):
            (config.workspace_dir / name).unlink(missing_ok=True)
        for name in ("tensorboard", ROWS_FOLDER, STACKS_FOLDER):
            shutil.rmtree(config.workspace_dir / name, ignore_errors=True)
    elif present := list_checkpoints(folder):
        if not resume:
            raise UsageError(
                f"{folder} already holds a run, at {present[-1].name}", "add --resume to continue it, or --overwrite"
            )
        manifest = _newest_manifest(present, fallback=fallback)
        if manifest is not None and manifest.run_fingerprint != run_fingerprint(config, index):
            raise ArtifactError(
                f"checkpoint {present[-1]} was trained with another dataset, model or train section",
                "restore the configuration (config.resolved.yaml of that run), or add --overwrite to start anew",
            )
    remove_partial(folder)
    (config.workspace_dir / STOP_NAME).unlink(missing_ok=True)
    dump(config, config.workspace_dir)


def _newest_manifest(present: list[Path], *, fallback: bool) -> CheckpointManifest | None:
    """The newest manifest that can be read; the ranks check the tensors. With `fallback` damaged ones are set aside."""
    for checkpoint in reversed(present):
        try:
            return read_manifest(checkpoint)
        except DamagedCheckpointError:
            if not fallback:
                raise
            set_aside(checkpoint)
    return None


def _num_ranks(config: RunConfig) -> int:
    if config.train.num_ranks is not None:
        return config.train.num_ranks
    num_ranks = torch.cuda.device_count() if rank_device(config.train).type == "cuda" else 1
    if config.train.num_lanes % num_ranks:
        raise ConfigError(
            f"train.num_lanes {config.train.num_lanes} is not a multiple of the {num_ranks} GPUs here",
            f"set train.num_lanes to a multiple of {num_ranks}, or train.num_ranks",
        )
    return num_ranks


@contextmanager
def one_rank_group(config: RunConfig) -> Iterator[None]:
    """A process group of this process alone: the same code as many ranks, with no cluster."""
    backend = "nccl" if rank_device(config.train).type == "cuda" else "gloo"
    timeout = timedelta(seconds=config.train.collective_timeout_seconds)
    dist.init_process_group(
        backend,
        store=dist.HashStore(),  # type: ignore[attr-defined]
        rank=0,
        world_size=1,
        timeout=timeout,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()
