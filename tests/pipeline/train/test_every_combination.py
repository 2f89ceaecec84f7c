"""Every body with every head and every balancer: 2 ranks have the losses of 1."""

from itertools import product
from pathlib import Path

import pytest
import torch
from combination_ranks import losses_of, losses_of_front_ends, on_ranks
from small_model import TASKS

from models.catalogue import BALANCERS, BODIES, HEADS

NUM_STEPS = 20


@pytest.mark.exhaustive
@pytest.mark.parametrize("head", HEADS)
def test_two_ranks_have_the_losses_of_one(head: str, tmp_path: Path) -> None:
    combinations = list(product(BODIES, [head], BALANCERS))
    one = on_ranks(losses_of, 1, tmp_path, combinations, NUM_STEPS, "table_wise")
    two = on_ranks(losses_of, 2, tmp_path, combinations, NUM_STEPS, "row_wise")
    assert len(one) == len(combinations)
    differences = {name: float((losses - two[name]).abs().max()) for name, losses in one.items()}
    assert all(losses.isfinite().all() for losses in one.values())
    assert all(losses[-1].sum() < losses[0].sum() for losses in one.values())
    assert not {name: difference for name, difference in differences.items() if not difference <= 1e-5}
    # A balancer that changed nothing would pass all of this. Where tasks share nothing, no gradients conflict.
    for body, balancer in product(set(BODIES) - {"single_task"}, set(BALANCERS) - {"fixed"}):
        assert not torch.equal(one[f"{body} {head} {balancer}"], one[f"{body} {head} fixed"]), (body, balancer)


@pytest.mark.slow
def test_every_balancer_learns_its_rows_by_heart(tmp_path: Path) -> None:
    combinations = list(product(["mmoe"], ["independent"], BALANCERS))
    found = on_ranks(losses_of, 1, tmp_path, combinations, 120, "table_wise", True)
    # Without the watch time, whose least loss is not 0.
    fitted = [place for place, task in enumerate(TASKS) if task.kind != "watch_time"]
    for name, losses in found.items():
        # The geometric mean: a balancer may bring some tasks much further than others.
        assert (losses[-1, fitted] / losses[0, fitted]).log().mean().exp() < 0.2, name


@pytest.mark.slow
@pytest.mark.parametrize("sharding", [pytest.param("table_wise", marks=pytest.mark.exhaustive), "row_wise"])
def test_two_ranks_have_the_losses_of_one_with_every_front_end(sharding: str, tmp_path: Path) -> None:
    bodies = ["mmoe", "stem"]
    one = on_ranks(losses_of_front_ends, 1, tmp_path, bodies, NUM_STEPS, "table_wise")
    two = on_ranks(losses_of_front_ends, 2, tmp_path, bodies, NUM_STEPS, sharding)
    for name, losses in one.items():
        assert losses[-1].sum() < losses[0].sum(), name
        torch.testing.assert_close(two[name], losses, rtol=0, atol=1e-5, msg=name)
