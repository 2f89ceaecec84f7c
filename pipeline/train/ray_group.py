"""A group of ranks on Ray: workers of Ray Train, what they fail of, how they are stopped and what they tell."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import ConfigError, GatehouseError, StoppedError, TrainingError
from pipeline.executor import Progress
from pipeline.run_config import RunConfig
from pipeline.shards.remote import fetch_on_node, note_fetched
from pipeline.train.checkpoints.checkpoint import DamagedCheckpointError
from pipeline.train.device import rank_device
from pipeline.train.guards.roll_call import LostRankError
from pipeline.train.guards.stopping import Signals, StopFile
from pipeline.train.rank import TRAINING_SPLITS, train_rank
from pipeline.train.telemetry import describe, read_history

_WORKER_POLL_SECONDS = 0.5
STOP_NAME = ".stop-requested"
PROCESS_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_", "MALLOC_")


def train_on_ray(
    config: RunConfig, num_ranks: int, stop: threading.Event, *, fallback: bool, progress: Progress | None
) -> None:
    """Trains on workers of Ray Train. Raises what `train` does, as the workers met it."""
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
            worker_runtime_env={"env_vars": process_settings()},
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


def process_settings() -> dict[str, str]:
    """What this process was told of how threads wait and memory is kept, for workers on machines that were not."""
    return {name: value for name, value in os.environ.items() if name.startswith(PROCESS_SETTINGS)}


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
        train_rank(config, signals, fallback=settings["fallback"])
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
