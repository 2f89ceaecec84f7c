"""A model with a weighted feature trains on two processes as it does on one, whatever the sharding."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from combination_ranks import on_ranks
from torch import Tensor
from torchrec import EmbeddingBagConfig, KeyedJaggedTensor, PoolingType

from models.balancers.fixed import FixedWeights
from models.batch import Batch
from models.bodies.shared_bottom import SharedBottom
from models.front_end import Attended, FrontEnd
from models.heads.independent import IndependentHead
from models.multitask import MultiTaskModel
from models.tasks import Task
from pipeline.train.config import TrainConfig
from pipeline.train.distribute import distribute
from pipeline.train.step import OverlappedStep, TrainingStep
from pipeline.train.training_model import TrainingModel

TASKS = (Task("click", "binary"),)
NAMES = ["user", "tags", "item", "history"]
TABLES = {"user": ["user"], "tags": ["tags"], "item": ["item", "history"]}
NUM_ROWS, NUM_EMBEDDINGS, DIM, NUM_STEPS = 32, 20, 8, 30
CPU = torch.device("cpu")


def make_batch(step: int) -> Batch:
    """This rank's rows; the label is about the tag with the largest weight."""
    generator = torch.Generator().manual_seed(step)
    rows_per_rank = NUM_ROWS // dist.get_world_size()
    bags: dict[str, list[list[int]]] = {name: [] for name in NAMES}
    weights: list[list[float]] = []
    labels = []
    for _ in range(NUM_ROWS):
        for name, length in (("user", 1), ("tags", 3), ("item", 1), ("history", 2)):
            num_ids = length if length == 1 else int(torch.randint(0, length + 1, (1,), generator=generator))
            bags[name].append(torch.randint(0, NUM_EMBEDDINGS, (num_ids,), generator=generator).tolist())
        weights.append((3 * torch.rand(len(bags["tags"][-1]), generator=generator)).tolist())
        heaviest = max(zip(weights[-1], bags["tags"][-1], strict=True), default=(0.0, 0))[1]
        labels.append([float(heaviest < NUM_EMBEDDINGS // 2)])
    own = slice(dist.get_rank() * rows_per_rank, (dist.get_rank() + 1) * rows_per_rank)
    values, id_weights, lengths = [], [], []
    for name in NAMES:
        for ids, weight in zip(bags[name][own], weights[own], strict=True):
            values += ids
            id_weights += weight if name == "tags" else [1.0] * len(ids)
            lengths.append(len(ids))
    return Batch(
        torch.zeros(rows_per_rank, 0),
        KeyedJaggedTensor(NAMES, torch.tensor(values), torch.tensor(id_weights), torch.tensor(lengths)),
        torch.tensor(labels[own]),
        torch.ones(rows_per_rank),
    )


def losses_of(settings: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
    """The mean loss at each step, [steps, 1], by name of the train section, with a history read by attention or not."""
    return {
        f"{name} {attention}": _losses(TrainConfig.model_validate(given), attention)
        for name, given in settings.items()
        for attention in (False, True)
    }


def _losses(config: TrainConfig, attention: bool) -> Tensor:
    torch.manual_seed(0)
    tables = [
        EmbeddingBagConfig(
            name=name,
            num_embeddings=NUM_EMBEDDINGS,
            embedding_dim=DIM,
            feature_names=features,
            pooling=PoolingType.SUM,
        )
        for name, features in TABLES.items()
    ]
    front_end = FrontEnd(
        tables,
        NAMES,
        0,
        1,
        torch.device("meta"),
        attention={"history": Attended("item", (6,))} if attention else None,
        weighted=["tags"],
    )
    model = MultiTaskModel(front_end, SharedBottom(front_end.inputs, TASKS, widths=(16, 8)), TASKS, (8,))
    training_model = TrainingModel(model, IndependentHead(TASKS), FixedWeights(TASKS))
    made = distribute(training_model, config, CPU, 0, NUM_ROWS // dist.get_world_size(), {"tags": 3, "history": 2})
    train_step = TrainingStep(made.model, training_model, made.optimizer, config, NUM_STEPS)
    overlapped = OverlappedStep(train_step, CPU) if config.pipeline == "sparse_dist" else None
    batches = iter([make_batch(step) for step in range(NUM_STEPS)])
    losses = []
    for step in range(NUM_STEPS):
        sums = overlapped.train(batches, step)[1] if overlapped else train_step(next(batches), step)
        losses.append(sums[0] / sums[1])
    return torch.stack(losses)


def section(sharding: str, **settings: Any) -> dict[str, Any]:
    return {"sharding": {"default": sharding}, "dense_optimizer": {"learning_rate": 0.01}, **settings}


@pytest.mark.slow
def test_two_ranks_have_the_losses_of_one_with_a_weighted_feature(tmp_path: Path) -> None:
    settings = {
        "table_wise": section("table_wise"),
        "row_wise": section("row_wise"),
        "overlapped": section("row_wise", pipeline="sparse_dist"),
    }
    one = on_ranks(losses_of, 1, tmp_path, {"table_wise": settings["table_wise"]})
    two = on_ranks(losses_of, 2, tmp_path, settings)
    for name, losses in two.items():
        expected = one[f"table_wise {name.rpartition(' ')[2]}"]
        assert expected[-5:].mean() < expected[:5].mean()
        torch.testing.assert_close(losses, expected, rtol=0, atol=1e-5, msg=name)
