"""The train stage: checks, then one process or a Ray Train worker group, then the checkpoint to use."""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipeline.assemble import check_model, make_balancer, table_rows, tasks_of
from pipeline.config import dump
from pipeline.errors import ArtifactError, ConfigError, GatehouseError, StoppedError, TrainingError, UsageError
from pipeline.executor import Progress
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import DatasetIndex, Split, check_schema, read_index
from pipeline.shards.remote import fetch_index, fetch_on_node, fetch_shards, note_fetched
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
from pipeline.train.guards.roll_call import LostRankError
from pipeline.train.guards.stopping import Signals, StopFile, on_sigterm
from pipeline.train.known_warnings import silence
from pipeline.train.tables.settings import check_table_settings, table_settings
from pipeline.train.telemetry import INSPECTIONS_NAME, METRICS_NAME, describe, read_history
from pipeline.train.trainer import STACKS_FOLDER, Trainer

# What may change between a checkpoint and its resumption without changing the loss curve.
_FREE_KEYS = {
    "num_ranks", "device", "sharding", "pipeline", "micro_batch_rows", "max_epochs", "early_stopping",
    "validate_every_steps", "checkpoint_every_steps", "keep_checkpoints", "checkpoint_in_background", "record_rows",
    "log_every_steps", "inspect_every_steps", "collective_timeout_seconds", "watchdog_seconds", "max_failures",
}  # fmt: skip
_WORKER_POLL_SECONDS = 0.5
STOP_NAME = ".stop-requested"
TRAINING_SPLITS: tuple[Split, ...] = ("train", "validation")


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
                _train_rank(config, Signals(stop.is_set), fallback=fallback, progress=progress)
        else:
            _train_on_ray(config, num_ranks, stop, fallback=fallback, progress=progress)
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


def run_fingerprint(config: RunConfig, index: DatasetIndex) -> str:
    """A sha256 over everything that decides the loss curve: data, model, optimizers, batches, seed."""
    schedules = (config.train.sparse_schedule, config.train.dense_schedule)
    free_keys = _FREE_KEYS - ({"max_epochs"} if any(s.ends_with_the_run for s in schedules) else set())
    settings = {
        "seed": config.seed,
        "model": config.model.model_dump(mode="json"),
        "train": {k: v for k, v in config.train.model_dump(mode="json").items() if k not in free_keys},
        "schema": index.schema_fingerprint,
        "shards": [(shard.split, shard.sha256) for shard in index.shards],
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


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


def _train_rank(
    config: RunConfig, signals: Signals | None = None, *, fallback: bool = False, progress: Progress | None = None
) -> None:
    """What every rank runs, inside a process group."""
    silence()
    # Denormal optimizer state makes CPU steps several times slower.
    torch.set_flush_denormal(True)
    try:
        index = read_index(config.dataset_dir)
        Trainer(
            config,
            index,
            run_fingerprint(config, index),
            rank_device(config.train),
            fallback=fallback,
            signals=signals,
            progress=progress,
        ).train()
    finally:
        torch.set_flush_denormal(False)


def _train_on_ray(
    config: RunConfig, num_ranks: int, stop: threading.Event, *, fallback: bool, progress: Progress | None
) -> None:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    use_gpu = rank_device(config.train).type == "cuda"
    threads = max(1, (os.cpu_count() or 1) // num_ranks)
    fetched = os.urandom(8).hex()
    if config.remote_dataset:
        note_fetched(config.dataset_dir, fetched)
    trainer = TorchTrainer(
        _ray_worker,
        train_loop_config={
            "config": config.model_dump(mode="json", by_alias=True),
            "folder": os.getcwd(),
            "num_threads": threads,
            "fallback": fallback,
            "fetched": fetched,
        },
        scaling_config=ray.train.ScalingConfig(num_workers=num_ranks, use_gpu=use_gpu),
        torch_config=TorchConfig(
            backend="nccl" if use_gpu else "gloo", timeout_s=config.train.collective_timeout_seconds
        ),
        run_config=ray.train.RunConfig(
            # A fresh name for each attempt: with an old one Ray resumes by itself.
            name=f"gatehouse-{os.getpid()}-{os.urandom(4).hex()}",
            storage_path=str((config.workspace_dir / "ray").resolve()),
            failure_config=ray.train.FailureConfig(max_failures=config.train.max_failures),
        ),
    )
    try:
        with _watching(config.workspace_dir, stop, progress):
            outcome = trainer.fit().return_value
    except Exception as error:
        raise _cause_of(error) from error
    finally:
        shutil.rmtree(config.workspace_dir / "ray", ignore_errors=True)
    if outcome is not None:
        raise outcome


def _ray_worker(settings: dict[str, Any]) -> GatehouseError | None:
    """Trains one rank. What all ranks fail of together is returned: raised, it would be tried again."""
    import ray.train
    import ray.train.collective

    # Ray has moved the worker into a folder of its own, and relative paths start where the driver is. On a node that
    # does not have that folder only absolute paths lead anywhere.
    with suppress(FileNotFoundError):
        os.chdir(settings["folder"])
    torch.set_num_threads(settings["num_threads"])
    config = RunConfig.model_validate(settings["config"])
    signals = Signals(StopFile(config.workspace_dir / STOP_NAME), lambda: ray.train.get_preemption_info() is not None)
    if config.remote_dataset:
        # A node that does not share the driver's disk has a copy of its own; a collective would not wait for it.
        fetch_on_node(config.dataset_dir, config.remote_dataset, TRAINING_SPLITS, settings["fetched"])
        ray.train.collective.barrier()
    try:
        _train_rank(config, signals, fallback=settings["fallback"])
    except LostRankError:
        raise
    except (ConfigError, StoppedError, TrainingError, DamagedCheckpointError) as error:
        return error
    return None


def _cause_of(error: Exception) -> Exception:
    """The GatehouseError that a worker met, if it was one; else the error itself."""
    failures = getattr(error, "worker_failures", {})
    met: list[GatehouseError] = []
    for candidate in (error, *failures.values()):
        found: BaseException | None = candidate
        while found is not None:
            if isinstance(found, GatehouseError):
                met.append(found)
            found = getattr(found, "cause", None) or found.__cause__
    # That another rank was lost is said by the ranks that are not the cause.
    return min(met, key=lambda one: isinstance(one, LostRankError), default=error)


@contextmanager
def _watching(workspace: Path, stop: threading.Event, progress: Progress | None) -> Iterator[None]:
    """Hands a stop on to the workers, and shows the progress that the first rank writes to metrics.jsonl."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_WORKER_POLL_SECONDS):
            if stop.is_set():
                (workspace / STOP_NAME).touch()
            if progress is not None:
                for record in read_history(workspace)[-1:]:
                    # A record of an earlier version has no samples.
                    samples = record.get("samples", 0)
                    progress(describe(record), record["step"], record["num_steps"], samples, "samples")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        (workspace / STOP_NAME).unlink(missing_ok=True)
