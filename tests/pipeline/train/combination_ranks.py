"""Trains small models for some steps on real processes over gloo, many models in one set of processes."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from gloo_ranks import start_ranks
from small_model import batch_of, make_balancer, make_head, make_model, make_rows
from torch import Tensor
from torch._dynamo.utils import counters
from torchrec.distributed import DistributedModelParallel

from models.batch import Batch
from models.catalogue import INTERACTIONS
from pipeline.train.compiled import compile_dense
from pipeline.train.config import TrainConfig
from pipeline.train.distribute import distribute
from pipeline.train.known_warnings import silence
from pipeline.train.step import OverlappedStep, TrainingStep
from pipeline.train.training_model import TrainingModel

NUM_ROWS = 48
NUM_STEPS = 100


def on_ranks(function: Callable[..., Any], num_ranks: int, folder: Path, *arguments: Any) -> Any:
    """What `function(*arguments)` gives on the first of `num_ranks` new processes in one group."""
    store, result = folder / f"store-{num_ranks}", folder / f"result-{num_ranks}.pt"
    store.unlink(missing_ok=True)
    start_ranks(_run_rank, (num_ranks, str(store), str(result), function, arguments), num_ranks)
    return torch.load(result, weights_only=True)


def losses_of(
    combinations: Sequence[tuple[str, str, str]],
    num_steps: int,
    sharding: str,
    one_batch: bool = False,
    interaction: str | None = None,
) -> dict[str, Tensor]:
    """The mean loss per task at each step, [steps, T], of each (body, head, balancer), by their names.

    Each step has a batch of its own, or all of them have the same one.
    """
    return {
        " ".join(combination): _losses(combination, num_steps, sharding, one_batch=one_batch, interaction=interaction)
        for combination in combinations
    }


def losses_compiled(
    combinations: Sequence[tuple[str, str, str]], num_steps: int, interaction: str
) -> dict[str, Tensor]:
    """The same with an interaction and compiled dense parts. An AssertionError names a model of which a part is not."""
    found = {}
    for combination in combinations:
        name = " ".join(combination)
        torch.compiler.reset()
        counters.clear()
        found[name] = _losses(combination, num_steps, "table_wise", interaction=interaction, train={"compile": True})
        assert counters["frames"]["ok"] == counters["frames"]["total"] >= 3, (name, counters["frames"])
        assert not counters["graph_break"], (name, counters["graph_break"])
    return found


def losses_of_front_ends(bodies: Sequence[str], num_steps: int, sharding: str) -> dict[str, Tensor]:
    """The same for models that read a history by attention, with each interaction and without."""
    return {
        f"{body} {interaction}": _losses(
            (body, "independent", "fixed"), num_steps, sharding, attention=True, interaction=interaction
        )
        for body in bodies
        for interaction in (None, *INTERACTIONS)
    }


def losses_with(settings: dict[str, dict[str, Any]], num_steps: int) -> dict[str, Tensor]:
    """The mean loss per task at each step, [steps, T], of MMoE and ESMM with each of some train sections, by name.

    Rows have weights from 0 to 2, and two ranks make a node.
    """
    os.environ["LOCAL_WORLD_SIZE"] = str(min(dist.get_world_size(), 2))
    return {name: _weighted_losses(TrainConfig.model_validate(given), num_steps) for name, given in settings.items()}


def _weighted_losses(config: TrainConfig, num_steps: int) -> Tensor:
    train_step, _ = make_step(("mmoe", "esmm", "fixed"), config)
    overlapped = OverlappedStep(train_step, torch.device("cpu")) if config.pipeline == "sparse_dist" else None
    batches = iter([_weighted_batch(step) for step in range(num_steps)])
    losses = []
    for step in range(num_steps):
        sums = overlapped.train(batches, step)[1] if overlapped else train_step(next(batches), step)
        losses.append(sums[0] / sums[1])
    return torch.stack(losses)


def _weighted_batch(step: int) -> Batch:
    rows = make_rows(NUM_ROWS, seed=step)
    weighted = [row._replace(weight=(place * 7 + step) % 5 / 2) for place, row in enumerate(rows)]
    return batch_of(weighted[own_rows(step)])


def make_step(
    combination: tuple[str, str, str], config: TrainConfig, **options: Any
) -> tuple[TrainingStep, DistributedModelParallel]:
    """A training step on a small model, on this process's group."""
    body, head, balancer = combination
    model = make_model(body, table_device="meta", **options)
    if config.compile:
        compile_dense(model)
    training_model = TrainingModel(
        model,
        make_head(head),
        make_balancer(balancer),
        micro_batch_rows=config.micro_batch_rows,
        is_bfloat16=config.precision == "bfloat16",
    )
    device = torch.device("cpu")
    made = distribute(training_model, config, device, 0, NUM_ROWS // dist.get_world_size(), {})
    return TrainingStep(made.model, training_model, made.optimizer, config, NUM_STEPS), made.model


def own_rows(step: int) -> slice:
    """The rows of this rank in a global batch."""
    rows_per_rank = NUM_ROWS // dist.get_world_size()
    return slice(dist.get_rank() * rows_per_rank, (dist.get_rank() + 1) * rows_per_rank)


def _losses(
    combination: tuple[str, str, str],
    num_steps: int,
    sharding: str,
    *,
    one_batch: bool = False,
    train: Mapping[str, Any] | None = None,
    **options: Any,
) -> Tensor:
    settings = {"sharding": {"default": sharding}, "dense_optimizer": {"learning_rate": 0.01}, **(train or {})}
    config = TrainConfig.model_validate(settings)
    train_step, _ = make_step(combination, config, **options)
    losses = []
    for step in range(num_steps):
        rows = make_rows(NUM_ROWS, seed=0 if one_batch else step)
        sums = train_step(batch_of(rows[own_rows(step)]), step)
        losses.append(sums[0] / sums[1])
    return torch.stack(losses)


def _run_rank(
    rank: int, num_ranks: int, store: str, result: str, function: Callable[..., Any], arguments: Sequence[Any]
) -> None:
    torch.set_num_threads(1)
    silence()
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=num_ranks)
    found = function(*arguments)
    if rank == 0:
        torch.save(found, result)
    dist.barrier()
    # gloo's threads can outlive the interpreter's end and abort it.
    os._exit(0)
