"""The loss curve is a function of configuration and data, not of the number of ranks or the plan."""

import os
from pathlib import Path
from typing import Any

import pytest
from gloo_ranks import assert_same_evaluation, train_on_ranks

from jobs.ray_executor import RayExecutor
from pipeline.evaluate.run import evaluate
from pipeline.run_config import RunConfig
from pipeline.train.run import train
from pipeline.train.telemetry import read_history

NUM_STEPS = 50


@pytest.fixture
def one_rank(make_config: Any) -> RunConfig:
    config: RunConfig = make_config("one rank")
    train(config)
    return config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_ranks", "sharding"),
    [
        pytest.param(2, {"default": "table_wise"}, marks=pytest.mark.exhaustive),
        (2, {"default": "row_wise"}),
        (4, {"tables": {"user_id": "row_wise", "item_id": "data_parallel", "*": "table_wise"}}),
    ],
    ids=["2 table_wise", "2 row_wise", "4 mixed"],
)
def test_more_ranks_have_the_losses_and_the_evaluation_of_one(
    one_rank: RunConfig, make_config: Any, tmp_path: Path, num_ranks: int, sharding: dict[str, Any]
) -> None:
    config = make_config("more ranks", train={"sharding": sharding})
    history = train_on_ranks(config, num_ranks, tmp_path / "store")
    reference = read_history(one_rank.workspace_dir)
    steps = [record for record in reference if record["kind"] == "train"][:NUM_STEPS]
    assert len(steps) == NUM_STEPS
    for expected, found in zip(reference, history, strict=True):
        assert (found["step"], found["kind"]) == (expected["step"], expected["kind"])
        assert found["losses"] == pytest.approx(expected["losses"], abs=1e-5)
    assert_same_evaluation(evaluate(config), evaluate(one_rank))


@pytest.mark.exhaustive
@pytest.mark.slow
def test_more_ranks_than_rows_in_the_last_batch_end_together(make_config: Any, tmp_path: Path) -> None:
    config = make_config(train={"global_batch_size": 4096, "sharding": {"default": "row_wise"}})
    history = train_on_ranks(config, 4, tmp_path / "store")
    assert history[-1]["kind"] == "validation"


@pytest.mark.ray
def test_ray_train_gives_the_same_curve_in_a_relative_workspace(one_rank: RunConfig, make_config: Any) -> None:
    config = make_config("ray", train={"num_ranks": 2})
    config = config.model_copy(update={"workspace": os.path.relpath(config.workspace)})
    with RayExecutor(None, 2):
        best = train(config)
    assert best.is_dir()
    for expected, found in zip(read_history(one_rank.workspace_dir), read_history(config.workspace_dir), strict=True):
        assert found["losses"] == pytest.approx(expected["losses"], abs=1e-5)
    assert not (config.workspace_dir / "ray").exists()
