"""The same losses whatever the number of ranks and the plan, with masked, weighted and conditional tasks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from combination_ranks import losses_with, on_ranks
from torch import Tensor

NUM_STEPS = 100
FEW_STEPS = 20
TOLERANCE = 1e-5

MIXED = {"tables": {"user": "row_wise", "i*": "table_wise"}}
ROWWISE: dict[str, dict[str, Any]] = {
    "table_wise": {"sharding": {"default": "table_wise"}},
    "row_wise": {"sharding": {"default": "row_wise"}},
    "mixed": {"sharding": MIXED},
    "data_parallel": {"sharding": {"tables": {"user": "data_parallel", "item": "row_wise"}}},
    "table_row_wise": {"sharding": {"default": "table_row_wise"}},
    "overlapped": {"sharding": MIXED, "pipeline": "sparse_dist"},
    "micro-batches": {"sharding": MIXED, "micro_batch_rows": 5},
}
ADAGRAD = {"kind": "adagrad"}
BY_COLUMNS: dict[str, dict[str, Any]] = {
    name: {
        "sparse_optimizer": ADAGRAD,
        "sharding": {"tables": {"*": {"type": name, "min_columns": 4}}}
        if name in ("column_wise", "grid")
        else {"default": name},
    }
    for name in ("table_wise", "column_wise", "grid", "data_parallel")
}
PER_TABLE = {
    "sparse_optimizers": {"user": {"kind": "sgd", "learning_rate": 0.5}, "it*": {"kind": "adagrad", "eps": 1e-4}},
    "sparse_schedule": {"warmup_steps": 5, "decay": "cosine", "final_factor": 0.1},
    "dense_schedule": {"decay": "linear", "decay_steps": 30},
    "max_gradient_norm": 0.5,
}
SETTINGS_PER_TABLE: dict[str, dict[str, Any]] = {
    name: {**PER_TABLE, "sharding": {"default": name}} for name in ("table_wise", "row_wise", "data_parallel")
}


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    folder = tmp_path_factory.mktemp("references")
    settings = {
        "rowwise": ROWWISE["table_wise"],
        "by columns": BY_COLUMNS["table_wise"],
        "per table": SETTINGS_PER_TABLE["table_wise"],
        "float32": {},
    }
    found: dict[str, Tensor] = on_ranks(losses_with, 1, folder, settings, NUM_STEPS)
    return found


def assert_same_losses(found: dict[str, Tensor], expected_ST: Tensor) -> None:
    for name, loss_ST in found.items():
        assert bool((loss_ST.isnan() == expected_ST[: len(loss_ST)].isnan()).all()), name
        worst = (loss_ST - expected_ST[: len(loss_ST)]).abs().nan_to_num().max().item()
        print(f"{name}: worst difference {worst:.1e}")
        assert worst < TOLERANCE, (name, worst)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_ranks", "plans"),
    [
        pytest.param(2, ("table_wise", "row_wise", "mixed"), marks=pytest.mark.exhaustive),
        pytest.param(4, ("table_wise", "row_wise"), marks=pytest.mark.exhaustive),
        (4, ("mixed",)),
    ],
)
def test_a_hundred_steps_have_the_losses_of_one_rank(
    references: dict[str, Tensor], tmp_path: Path, num_ranks: int, plans: tuple[str, ...]
) -> None:
    found = on_ranks(losses_with, num_ranks, tmp_path, {name: ROWWISE[name] for name in plans}, NUM_STEPS)
    assert_same_losses(found, references["rowwise"])


@pytest.mark.slow
def test_every_way_to_shard_has_the_losses_of_one_rank(references: dict[str, Tensor], tmp_path: Path) -> None:
    found = on_ranks(losses_with, 4, tmp_path, {**ROWWISE, **{f"a {k}": v for k, v in BY_COLUMNS.items()}}, FEW_STEPS)
    assert_same_losses({name: found[name] for name in ROWWISE}, references["rowwise"])
    assert_same_losses({name: found[f"a {name}"] for name in BY_COLUMNS}, references["by columns"])


@pytest.mark.slow
def test_optimizers_of_single_tables_and_schedules_have_the_losses_of_one_rank(
    references: dict[str, Tensor], tmp_path: Path
) -> None:
    found = on_ranks(losses_with, 2, tmp_path, SETTINGS_PER_TABLE, FEW_STEPS)
    assert_same_losses(found, references["per table"])
    assert (references["per table"] - references["rowwise"]).abs().nan_to_num().max() > 1e-3


@pytest.mark.slow
def test_bfloat16_products_stay_near_float32(references: dict[str, Tensor], tmp_path: Path) -> None:
    found = on_ranks(losses_with, 1, tmp_path, {"bfloat16": {"precision": "bfloat16"}}, NUM_STEPS)["bfloat16"]
    difference = (found - references["float32"]).abs()
    assert found.dtype == torch.float32
    assert 1e-4 < difference[~difference.isnan()].mean().item() < 0.02
