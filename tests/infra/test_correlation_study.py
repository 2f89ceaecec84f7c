"""The synthetic study: budgets, the tasks it makes, runs trained at once against runs trained alone, its verdicts."""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "infra" / "benchmarks"))  # scripts, not a package
study: Any = importlib.import_module("correlation_study")
told: Any = importlib.import_module("correlation_verdicts")


def test_all_bodies_have_the_same_budget_within_two_percent() -> None:
    sizes = {body: sum(p.numel() for p in study.Net(body).parameters()) for body in study.OPTIONS}
    assert max(sizes.values()) < 1.02 * min(sizes.values())
    assert 0.98 < sizes["mmoe"] / 14_818 < 1.02


def test_labels_have_the_correlation_of_their_directions_and_no_variance_but_one() -> None:
    problem = study.Problem([3, 4], [0.0, 0.5, 1.0], stream=0)
    x_RBI, label, noise = problem.draw(20_000)
    assert x_RBI.shape == (6, 20_000, 100)
    assert torch.equal(label[2, :, 0], label[2, :, 1])
    assert torch.equal(label[0, :, 0], label[2, :, 0])
    assert not torch.allclose(label[0, :, 0], label[3, :, 0])
    torch.testing.assert_close(label.mean(dim=1), torch.zeros(6, 2), rtol=0, atol=0.05)
    torch.testing.assert_close(label.var(dim=1), torch.ones(6, 2), rtol=0, atol=0.1)
    for run, p in enumerate((0.0, 0.5, 1.0)):
        along = x_RBI[run] @ problem.directions_SI2[0]
        second = p * along[:, 0] + (1 - p * p) ** 0.5 * along[:, 1]
        assert float(torch.corrcoef(torch.stack([along[:, 0], second]))[0, 1]) == pytest.approx(p, abs=0.03)
    deviation = problem.deviation_S.repeat_interleave(3)
    torch.testing.assert_close(
        (noise * deviation[:, None, None]).std(dim=1), torch.full((6, 2), 0.1), rtol=0.05, atol=0
    )


@pytest.mark.parametrize("body", ["mmoe", "ple", "single_task"])
def test_runs_that_are_trained_at_once_are_those_trained_alone(body: str) -> None:
    seeds, correlations = [0, 1], [0.0, 1.0]
    together = study.train_runs(body, seeds, correlations, 0.01, 15, 32)
    alone = [[study.train_runs(body, [seed], [p], 0.01, 15, 32)[0, 0] for p in correlations] for seed in seeds]
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_training_learns_the_labels() -> None:
    before = study.train_runs("mmoe", [0], [0.5], 0.01, 1, 64)
    after = study.train_runs("mmoe", [0], [0.5], 0.01, 300, 64)
    assert after < 0.5 * before


def test_an_interval_holds_the_mean_and_shrinks_with_the_spread() -> None:
    values = np.linspace(-1, 3, 40)
    value, low, high = told.interval(lambda seeds: float(values[seeds].mean()), 40)
    assert value == pytest.approx(1.0)
    error = values.std() / 40**0.5
    assert (low, high) == (pytest.approx(1 - 1.96 * error, abs=0.05), pytest.approx(1 + 1.96 * error, abs=0.05))


@pytest.mark.exhaustive
def test_verdicts_follow_from_the_losses() -> None:
    random = np.random.default_rng(0)
    p = np.array(told.CORRELATIONS)
    common = random.normal(0, 0.01, (30, 1))
    # error at correlation 1, what correlation 0 adds, spread of the runs
    made = {
        "single_task": (0.5, 0.0, 0.02),
        "shared_bottom": (0.5, 0.4, 0.06),
        "omoe": (0.3, 0.3, 0.02),
        "mmoe": (0.3, 0.1, 0.02),
        "cgc": (0.3, 0.0, 0.02),
        "ple": (0.2, 0.1, 0.02),
    }
    losses = {
        body: least + slope * (1 - p) + common + random.normal(0, spread, (30, len(p)))
        for body, (least, slope, spread) in made.items()
    }
    held = verdicts(losses, "difference")
    assert [name for name, verdict in held.items() if verdict != "holds"] == [
        "(a) CGC is worse at correlation 0 than at 1"
    ]
    held = verdicts(losses, "ratio")
    assert held["(c) MMoE is better than Shared-Bottom on average"] == "holds"
    losses["ple"] += 0.5
    for measure in ("difference", "ratio"):
        assert verdicts(losses, measure)["(PLE) PLE's mean gain over single-task exceeds MMoE's"] == "does not hold"


def verdicts(losses: dict[str, Any], measure: str) -> dict[str, str]:
    return {found["statement"]: found[measure]["verdict"] for found in told.statements(losses)}


def test_a_ratio_counts_easy_and_hard_seeds_alike() -> None:
    hard = np.array([1.0] * 28 + [100.0] * 2)[:, None] * np.ones((30, len(told.CORRELATIONS)))
    losses = {body: hard.copy() for body in study.OPTIONS}
    # Better by a fifth on 28 easy seeds, worse by a tenth on 2 hard ones.
    losses["mmoe"][:28] *= 0.8
    losses["mmoe"][28:] *= 1.1
    name = "(c) MMoE is better than Shared-Bottom on average"
    assert verdicts(losses, "ratio")[name] == "holds"
    assert verdicts(losses, "difference")[name] == "not decided"
