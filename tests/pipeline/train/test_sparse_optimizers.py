"""What the sparse optimizers do to a row, against their formulas."""

from pathlib import Path
from typing import Any

import pytest
import torch
from combination_ranks import make_step, on_ranks
from small_model import batch_of, make_rows
from torch import Tensor

from pipeline.train.checkpoints.sharded_tensors import local_tensors
from pipeline.train.config import TrainConfig

USER = "model.front_end.embeddings.embedding_bags.user.weight"
RATE, EPS, CUT = 0.1, 1e-3, 1e-3
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"kind": "sgd"},
    "adagrad": {"kind": "adagrad", "eps": EPS},
    "rowwise_adagrad": {"kind": "rowwise_adagrad", "eps": EPS},
    "cut": {"kind": "sgd", "max_gradient": CUT},
}


def first_moves() -> dict[str, Tensor]:
    """By how much each optimizer moves the users' table at the first step, [rows, width]."""
    moves = {}
    for name, settings in OPTIMIZERS.items():
        config = TrainConfig.model_validate({"sparse_optimizer": {"learning_rate": RATE, **settings}})
        step, model = make_step(("mmoe", "independent", "fixed"), config)
        (table,) = (tensor for key, tensor in local_tensors(model.state_dict()) if key == USER)
        before = table.clone()
        step(batch_of(make_rows(48)), 0)
        moves[name] = before - table
    return moves


@pytest.mark.slow
def test_each_optimizer_makes_the_step_of_its_formula(tmp_path: Path) -> None:
    moves = on_ranks(first_moves, 1, tmp_path)
    gradient = moves["sgd"] / RATE
    assert gradient.abs().max() > 2 * CUT
    adagrad = RATE * gradient / (gradient.abs() + EPS)
    torch.testing.assert_close(moves["adagrad"], adagrad, atol=1e-6, rtol=1e-3)
    rowwise = RATE * gradient / (gradient.square().mean(dim=1, keepdim=True).sqrt() + EPS)
    torch.testing.assert_close(moves["rowwise_adagrad"], rowwise, atol=1e-6, rtol=1e-3)
    # Every row of the batch has another user, so that the pooled output's gradient is the row's.
    torch.testing.assert_close(moves["cut"], RATE * gradient.clamp(-CUT, CUT), atol=1e-8, rtol=1e-3)
