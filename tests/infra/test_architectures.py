"""The comparison of bodies: equal budgets, the choice of learning rates, gains and seesaws, by hand."""

import importlib
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from models.catalogue import BODIES

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "infra" / "benchmarks"))  # scripts, not a package
study: Any = importlib.import_module("architectures")


def run(body: str, seed: int, aucs: dict[str, float], rate: float = 0.001, validation: float = 1.0) -> dict[str, Any]:
    tasks = {task: {"auc": auc, "log_loss": 0.5, "calibration": 1.0} for task, auc in aucs.items()}
    return {
        "name": "census_income",
        "body": body,
        "seed": seed,
        "learning_rate": rate,
        "options": {"kind": body},
        "num_parameters": 1000,
        "num_parameters_before_body": 500,
        "num_steps": 10,
        "seconds": 1.0,
        "validation_loss": validation,
        "tasks": tasks,
    }


@pytest.mark.parametrize("name", study.NAMES)
def test_every_body_has_options_for_every_data_set(name: str) -> None:
    for body in BODIES:
        assert study.body_options(body, name, 8)["kind"] == body


def test_a_learning_rate_is_chosen_by_its_mean_over_the_tuning_seeds() -> None:
    losses = {(0, 0.001): 1.0, (100, 0.001): 2.0, (0, 0.002): 1.6, (100, 0.002): 1.3, (1, 0.004): 0.1}
    results = [run("mmoe", seed, {"a": 0.7}, rate, loss) for (seed, rate), loss in losses.items()]
    assert study.choose_rates(results) == {"mmoe": 0.002}


def test_gains_are_those_over_single_task_with_the_same_seed_and_the_chosen_rate() -> None:
    results = [
        *(run(body, seed, {"a": 0.5, "b": 0.5}) for body in ("single_task", "mmoe") for seed in study.TUNING_SEEDS),
        run("single_task", 1, {"a": 0.70, "b": 0.80}),
        run("single_task", 2, {"a": 0.72, "b": 0.80}),
        run("mmoe", 1, {"a": 0.71, "b": 0.79}),
        run("mmoe", 2, {"a": 0.75, "b": 0.79}),
        run("mmoe", 2, {"a": 0.99, "b": 0.99}, rate=0.5),
    ]
    best, baseline = study.summarise(results)
    assert (best["body"], baseline["body"]) == ("mmoe", "single_task")
    assert best["tasks"]["a"]["gain"] == pytest.approx(0.02)
    assert best["tasks"]["b"]["gain"] == pytest.approx(-0.01)
    assert best["tasks"]["a"]["gain_error"] == pytest.approx(math.sqrt(2) * 0.01 / math.sqrt(2))
    assert best["gain"] == pytest.approx(0.005)
    table = study.to_markdown("census_income", [best, baseline])
    assert "| mmoe | 2 | 0.001 | 1,000 | 500 | 0.7300 ± 0.0283 |" in table


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        (((0.02, 0.001), (-0.01, 0.002)), True),
        (((0.02, 0.001), (-0.01, 0.02)), False),
        (((0.02, 0.001), (0.01, 0.001)), False),
        (((-0.02, 0.001), (-0.01, 0.001)), False),
    ],
)
def test_a_seesaw_is_a_clear_gain_beside_a_clear_loss(gains: tuple[tuple[float, float], ...], expected: bool) -> None:
    tasks = {str(place): {"gain": gain, "gain_error": error} for place, (gain, error) in enumerate(gains)}
    assert study.is_seesaw(tasks) is expected
