"""What every balancer must do, whatever the losses and gradients.

Shapes: T tasks, P parameters of an explicit gradient.
"""

import math
from typing import Any

import pytest
import torch
from drawn_losses import NAN, TASKS, draw_gradients, draw_losses
from small_model import BALANCER_OPTIONS

from models.balancers.balancer import Balancer, Weights
from models.catalogue import BALANCERS
from models.tasks import Task

# Their state says NaN of a task that had no row yet.
UNKNOWN = ("dwa", "gradnorm")
each_balancer = pytest.mark.parametrize("name", BALANCERS)


def make(name: str, tasks: list[Task] = TASKS) -> Balancer:
    options = {} if len(tasks) == 1 else BALANCER_OPTIONS[name]
    return BALANCERS[name](tasks, **options)


def take_step(balancer: Balancer, step: int, absent: int | None = None) -> Weights:
    """A step on random losses and gradients; the task `absent` has no row."""
    loss_T, gradient_TP = draw_losses(step, balancer.num_tasks), draw_gradients(step, balancer.num_tasks)
    after_T = loss_T * (0.9 + 0.1 * draw_losses(step + 1000, balancer.num_tasks))
    if absent is not None:
        loss_T[absent], after_T[absent], gradient_TP[absent] = NAN, NAN, 0.0
    gram_TT = gradient_TP @ gradient_TP.T if balancer.needs_gradients else None
    weights = balancer.weights(loss_T, gram_TT, step)
    if balancer.needs_losses_after:
        balancer.observe(after_T)
    return Weights(*(part.clone() for part in weights))


@each_balancer
@pytest.mark.parametrize("num_tasks", [1, 3])
def test_weights_are_finite_positive_and_float32(name: str, num_tasks: int) -> None:
    balancer = make(name, TASKS[:num_tasks])
    for step in range(30):
        for part in take_step(balancer, step):
            assert part.shape == (num_tasks,)
            assert part.dtype == torch.float32
            assert part.isfinite().all()
            assert (part > 0).all()


@each_balancer
@pytest.mark.parametrize("absent_steps", [(0,), (5,), tuple(range(20))], ids=["at first", "once", "always"])
def test_a_task_without_a_row_leaves_all_weights_finite(name: str, absent_steps: tuple[int, ...]) -> None:
    balancer = make(name)
    for step in range(20):
        for part in take_step(balancer, step, absent=1 if step in absent_steps else None):
            assert part.isfinite().all()
            assert (part > 0).all()
    was_seen = len(absent_steps) < 20
    assert all(value.isfinite().all() for value in balancer.state_dict().values()) == (was_seen or name not in UNKNOWN)


@each_balancer
@pytest.mark.parametrize("num_tasks", [1, 3])
def test_a_batch_without_any_labelled_row_leaves_the_weights_finite(name: str, num_tasks: int) -> None:
    balancer = make(name, TASKS[:num_tasks])
    zeros_TT = torch.zeros(num_tasks, num_tasks, dtype=torch.float64) if balancer.needs_gradients else None
    weights = balancer.weights(torch.full((num_tasks,), NAN), zeros_TT, 0)
    balancer.observe(torch.full((num_tasks,), NAN))
    for part in (*weights, *take_step(balancer, 1)):
        assert part.isfinite().all()


@each_balancer
def test_a_task_whose_loss_is_exactly_zero_leaves_the_weights_finite(name: str) -> None:
    balancer = make(name)
    identity_TT = torch.eye(3, dtype=torch.float64) if balancer.needs_gradients else None
    for step in range(20):
        loss_T = torch.tensor([0.0 if step < 10 else 1.0, 0.5, 0.0])
        assert all(part.isfinite().all() for part in balancer.weights(loss_T, identity_TT, step))
        balancer.observe(loss_T)


@each_balancer
def test_a_balancer_restored_in_the_middle_goes_on_with_the_same_bits(name: str) -> None:
    whole, first, second = make(name), make(name), make(name)
    expected = [take_step(whole, step) for step in range(20)]
    for step in range(11):
        take_step(first, step)
    second.load_state_dict(first.state_dict())
    for step in range(11, 20):
        for found, part in zip(take_step(second, step), expected[step], strict=True):
            assert torch.equal(found, part)


@each_balancer
def test_no_balancer_trains_anything_by_backpropagation(name: str) -> None:
    balancer = make(name)
    assert list(balancer.parameters()) == []
    assert not any(part.requires_grad for part in take_step(balancer, 0))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cagrad", {"c": 1.0}),
        ("cagrad", {"c": -0.1}),
        ("dwa", {"temperature": 0.0}),
        ("dwa", {"temperature": NAN}),
        ("dwa", {"window_steps": 0}),
        ("famo", {"learning_rate": 0.0}),
        ("famo", {"decay": -1.0}),
        ("famo", {"learning_rate": NAN}),
        ("famo", {"decay": NAN}),
        ("gradnorm", {"alpha": -1.0}),
        ("gradnorm", {"alpha": math.inf}),
        ("gradnorm", {"learning_rate": NAN}),
        ("gradnorm", {"learning_rate": 0.0}),
        ("metabalance", {"target": "clik"}),
        ("metabalance", {"relax": 1.1}),
        ("metabalance", {"beta": 1.0}),
        ("random", {"seed": -1}),
        ("uncertainty", {"learning_rate": 0.0}),
        ("uncertainty", {"learning_rate": math.inf}),
    ],
)
def test_a_value_that_makes_no_sense_is_named(name: str, options: dict[str, Any]) -> None:
    (option,) = options
    with pytest.raises(ValueError, match=option):
        BALANCERS[name](TASKS, **options)
