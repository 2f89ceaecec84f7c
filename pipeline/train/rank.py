"""One rank of a training: what decides its loss curve, and what it runs inside a process group."""

import hashlib
import json

import torch

from pipeline.executor import Progress
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import DatasetIndex, Split, read_index
from pipeline.train.device import rank_device
from pipeline.train.guards.stopping import Signals
from pipeline.train.known_warnings import silence
from pipeline.train.trainer import Trainer

TRAINING_SPLITS: tuple[Split, ...] = ("train", "validation")
# What may change between a checkpoint and its resumption without changing the loss curve.
_FREE_KEYS = {
    "num_ranks", "device", "sharding", "pipeline", "compile", "micro_batch_rows", "max_epochs", "early_stopping",
    "validate_every_steps", "checkpoint_every_steps", "keep_checkpoints", "checkpoint_in_background", "record_rows",
    "log_every_steps", "inspect_every_steps", "collective_timeout_seconds", "watchdog_seconds", "max_failures",
}  # fmt: skip


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


def train_rank(
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
