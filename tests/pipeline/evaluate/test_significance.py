"""p-values of pairs of simulated models: right where there is no difference, small where there is one."""

from typing import Any

import numpy as np
import pytest
from fabricated_parts import TASKS, make_columns, measure_columns
from numpy.typing import NDArray

NAMES = ("auc", "average_precision", "log_loss", "gauc", "ndcg@10")


def compare_pair(
    seed: int, *, noise: float = 0.5, better_by: float = 0.0, of_user: float = 0.0, has_users: bool = True
) -> dict[str, Any]:
    """The metrics of two models of one log, both with the true logit and noise of their own.

    The second one has so much more noise. `of_user` is how much each model errs on all rows of a user alike.
    """
    rng = np.random.default_rng(seed)
    num_rows, num_users = 4_000, 200
    user = rng.integers(0, num_users, num_rows)
    logit = rng.normal(-1, 1, num_rows) + rng.normal(0, 0.5, num_users)[user]
    label = rng.random(num_rows) < 1 / (1 + np.exp(-logit))
    outputs = [
        1 / (1 + np.exp(-logit - rng.normal(0, own, num_rows) - rng.normal(0, of_user, num_users)[user]))
        for own in (noise, noise + better_by)
    ]
    # Hashes of their own: the replicates of one pair say nothing about those of another.
    users = [f"{seed}, {one}" for one in user]
    keys: dict[str, Any] = {"user": users, "request": [f"{one}, {number % 3}" for number, one in enumerate(users)]}
    columns = make_columns(outputs[0], label, baseline=outputs[1], **(keys if has_users else {}))
    columns["unit_hash"] = columns["unit_hash"] ^ np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
    (task,) = measure_columns(columns, [TASKS["binary"]], num_replicates=200).tasks
    metrics: dict[str, Any] = task["metrics"]
    return metrics


def p_values(pairs: range, **options: Any) -> NDArray[np.float64]:
    """Of each pair and metric, [pairs, metrics]."""
    cells = [compare_pair(seed, **options) for seed in pairs]
    return np.array([[cell[name]["p_value"] for name in NAMES if name in cell] for cell in cells], float)


def rejected(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of pairs with a difference that counts as significant, [metrics]."""
    share: NDArray[np.float64] = (p < 0.05).mean(axis=0)
    return share


@pytest.mark.exhaustive
@pytest.mark.parametrize("of_user", [0.0, 1.0])
def test_of_300_pairs_of_equal_models_five_in_a_hundred_seem_different(of_user: float) -> None:
    share = rejected(p_values(range(300), of_user=of_user))
    assert share == pytest.approx(0.05, abs=0.0201), dict(zip(NAMES, share.tolist(), strict=True))


@pytest.mark.exhaustive
def test_rows_as_units_would_see_differences_that_are_not_there() -> None:
    of_users, of_rows = (
        rejected(p_values(range(300), of_user=2.0, has_users=one))[NAMES.index("log_loss")] for one in (True, False)
    )
    assert of_users == pytest.approx(0.05, abs=0.02)
    assert of_rows > 0.2


def test_an_interval_over_users_is_wider_where_a_users_rows_err_alike() -> None:
    apart, alike = (
        [
            compare_pair(1, of_user=of_user, has_users=has_users)["log_loss"]["difference_high"]
            - compare_pair(1, of_user=of_user, has_users=has_users)["log_loss"]["difference_low"]
            for has_users in (True, False)
        ]
        for of_user in (0.0, 2.0)
    )
    assert apart[0] == pytest.approx(apart[1], rel=0.25)
    assert alike[0] > 1.5 * alike[1]


def test_equal_models_seldom_seem_different_and_a_larger_difference_is_seen_more_often() -> None:
    none, small, large = (
        rejected(p_values(range(30), better_by=better_by))[NAMES.index("auc")] for better_by in (0.0, 0.1, 0.3)
    )
    assert none < 0.15
    assert none < small < large
    assert large > 0.9
