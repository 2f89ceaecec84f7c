"""What a model predicts in either precision: what it says itself, near each other, its experts computed once."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from scored_splits import other_settings, rows_of, score
from trained_runs import other_run, train_run

from models.layers import ExpertBank, mix
from models.tasks import predictions
from pipeline.evaluate.scoring import plan_pieces, read_batches
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import read_index
from pipeline.train.checkpoints.checkpoint import best_checkpoint
from pipeline.train.predictor import Predictor

BATCH_SIZE = 256


@pytest.fixture(scope="module")
def trained(demo_settings: dict[str, Any], dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return train_run(
        demo_settings, dataset, tmp_path_factory.mktemp("trained") / "run", evaluate={"batch_size": BATCH_SIZE}
    )


def first_rows(config: RunConfig) -> pa.Table:
    (piece, *_) = plan_pieces(read_index(config.dataset_dir).of_split("test"), BATCH_SIZE)
    return next(read_batches(config.dataset_dir, piece, BATCH_SIZE))


def open_predictor(config: RunConfig, *, is_bfloat16: bool = False) -> Predictor:
    checkpoint = best_checkpoint(config.checkpoints_dir)
    return Predictor(config, read_index(config.dataset_dir), checkpoint, BATCH_SIZE, is_bfloat16=is_bfloat16)


@pytest.mark.parametrize("is_bfloat16", [False, True])
def test_a_predictor_says_to_the_bit_what_its_model_says_and_how_it_mixes(
    trained: RunConfig, *, is_bfloat16: bool
) -> None:
    rows, predictor = first_rows(trained), open_predictor(trained, is_bfloat16=is_bfloat16)
    found = predictor.predict(rows)
    batch, model = predictor.batch_of(rows), predictor.model
    with torch.no_grad():
        x_BI = model.front_end(batch.dense, batch.sparse)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bfloat16):
            expected = predictions(model.tasks, model.towers(model.body(x_BI)))
            (mixture,) = mix(model.body, x_BI)[1].values()
    assert {name: values.tolist() for name, values in found.items()} == {
        name: value_B.tolist() for name, value_B in expected.items()
    }
    (mean_mixture,) = predictor.mean_mixtures().values()
    np.testing.assert_array_equal(mean_mixture["mean_weight"], mixture.weight_BTE.double().sum(dim=0) / rows.num_rows)


def test_the_experts_are_computed_once(trained: RunConfig) -> None:
    predictor = open_predictor(trained)
    calls: list[int] = []
    for module in predictor.model.modules():
        if isinstance(module, ExpertBank):
            module.register_forward_hook(lambda *_: calls.append(1))
    predictor.predict(first_rows(trained))
    assert (len(calls), len(predictor.mean_mixtures())) == (1, 1)


def test_bfloat16_is_near_float32_and_not_equal(trained: RunConfig, tmp_path: Path) -> None:
    tables = {
        precision: score(other_settings(other_run(trained, tmp_path / precision), precision=precision))
        for precision in ("float32", "bfloat16")
    }
    exact, rounded = (rows_of(table) for table in tables.values())
    for name in ("click", "like", "purchase", "joint_like"):
        difference = np.abs(np.subtract(rounded[f"prediction_{name}"], exact[f"prediction_{name}"]))
        assert 0 < difference.max() < 0.01, name
    before, after = (np.array(table.summary.mixtures["experts"]["mean_weight"]) for table in tables.values())
    assert 0 < np.abs(after - before).max() < 0.01


def test_both_models_are_compared_in_the_same_precision(trained: RunConfig, tmp_path: Path) -> None:
    checkpoint = str(best_checkpoint(trained.checkpoints_dir))
    table = score(other_settings(other_run(trained, tmp_path / "run"), baseline=checkpoint, precision="bfloat16"))
    for name in ("click", "joint_like", "watch"):
        assert rows_of(table)[f"baseline_{name}"].equals(rows_of(table)[f"prediction_{name}"])
