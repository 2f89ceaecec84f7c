"""Every balancer against a plain implementation on explicit gradients and losses, and what all of them must do.

Shapes: T tasks, P parameters of an explicit gradient.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from small_model import BALANCER_OPTIONS
from torch import Tensor

from models.balancers.balancer import Balancer, Weights
from models.balancers.cagrad import CAGrad, least_mix, worst_case
from models.balancers.dwa import DynamicWeightAverage
from models.balancers.famo import FAMO
from models.balancers.gradnorm import GradNorm
from models.balancers.metabalance import MetaBalance
from models.balancers.pcgrad import PCGrad, projection_order
from models.balancers.random_weights import RandomWeights
from models.balancers.uncertainty import UncertaintyWeights
from models.catalogue import BALANCERS
from models.tasks import Task

NAN = float("nan")
TASKS = [Task("click", "binary"), Task("like", "binary"), Task("watch", "regression")]
# Their state says NaN of a task that had no row yet.
UNKNOWN = ("dwa", "gradnorm")
each_balancer = pytest.mark.parametrize("name", BALANCERS)
seeds = st.integers(0, 10_000)


def make(name: str, tasks: list[Task] = TASKS) -> Balancer:
    options = {} if len(tasks) == 1 else BALANCER_OPTIONS[name]
    return BALANCERS[name](tasks, **options)


def draw_gradients(seed: int, num_tasks: int = 3, num_parameters: int = 7) -> Tensor:
    """Gradients of very different sizes, some in conflict: [T, P]."""
    generator = torch.Generator().manual_seed(seed)
    gradient_TP = torch.randn(num_tasks, num_parameters, generator=generator, dtype=torch.float64)
    return gradient_TP * 10 ** (2 * torch.rand(num_tasks, 1, generator=generator, dtype=torch.float64) - 1)


def draw_losses(seed: int, num_tasks: int = 3) -> Tensor:
    return torch.rand(num_tasks, generator=torch.Generator().manual_seed(seed)) + 0.1


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


# --- what all of them must do


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


# --- each against its paper


def textbook_pcgrad(gradient_TP: Tensor, step: int) -> Tensor:
    total_P = torch.zeros_like(gradient_TP[0])
    for task, others in enumerate(projection_order(len(gradient_TP), step)):
        own_P = gradient_TP[task].clone()
        for other in others:
            product = own_P @ gradient_TP[other]
            if product < 0:
                own_P -= product / (gradient_TP[other] @ gradient_TP[other]) * gradient_TP[other]
        total_P += own_P
    return total_P


@given(seed=seeds, num_tasks=st.integers(2, 6))
def test_pcgrad_is_the_projection_of_explicit_gradients(seed: int, num_tasks: int) -> None:
    gradient_TP = draw_gradients(seed, num_tasks)
    gram_TT = gradient_TP @ gradient_TP.T
    balancer = PCGrad([Task(f"t{place}", "binary") for place in range(num_tasks)])
    shared_T = balancer.weights(torch.ones(num_tasks), gram_TT, seed).shared_T.double()
    expected_P = textbook_pcgrad(gradient_TP, seed)
    scale = float(gradient_TP.norm(dim=1).max())
    torch.testing.assert_close(shared_T @ gradient_TP, expected_P, rtol=1e-5, atol=1e-5 * scale)


def test_pcgrad_leaves_gradients_without_a_conflict_alone() -> None:
    gradient_TP = torch.tensor([[1.0, 0.0], [0.5, 2.0], [3.0, 0.1]], dtype=torch.float64)
    weights = PCGrad(TASKS).weights(torch.ones(3), gradient_TP @ gradient_TP.T, 0)
    assert torch.equal(weights.shared_T, torch.ones(3))


def test_the_order_of_projections_is_random_over_steps_and_names_every_other_task() -> None:
    orders = {tuple(map(tuple, projection_order(3, step))) for step in range(40)}
    assert len(orders) > 5
    assert all(sorted((task, *others)) == [0, 1, 2] for order in orders for task, others in enumerate(order))


@settings(deadline=None)
@given(seed=seeds, num_tasks=st.integers(2, 6), c=st.sampled_from([0.1, 0.4, 0.9]))
def test_the_mix_of_cagrad_is_as_good_as_a_general_solver_finds(seed: int, num_tasks: int, c: float) -> None:
    gradient_TP = draw_gradients(seed, num_tasks)
    gram = (gradient_TP @ gradient_TP.T / gradient_TP.square().sum(dim=1).max()).tolist()
    mix = least_mix(gram, c)
    assert sum(mix) == pytest.approx(1)
    assert min(mix) >= 0
    solved = minimize(
        lambda x: worst_case(gram, list(x), c),
        np.full(num_tasks, 1 / num_tasks),
        bounds=[(0, 1)] * num_tasks,
        constraints={"type": "eq", "fun": lambda x: 1 - x.sum()},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert worst_case(gram, mix, c) <= solved.fun + 1e-8 * max(1.0, abs(solved.fun))


@settings(deadline=None)
@given(
    gradients=st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=3, max_size=3),
    c=st.sampled_from([0.01, 0.4, 0.9]),
)
@example(gradients=[(-1, 1), (2, -2), (2, -2)], c=0.01)
def test_the_mix_of_cagrad_is_the_best_of_a_grid_also_where_gradients_cancel_out(
    gradients: list[tuple[int, int]], c: float
) -> None:
    gradient_TP = np.array(gradients, dtype=float)
    gram = gradient_TP @ gradient_TP.T
    shares = np.array([(a, b, 30 - a - b) for a in range(31) for b in range(31 - a)]) / 30
    mean_length = np.linalg.norm(gradient_TP.mean(axis=0))
    values = shares @ gram.mean(axis=0) + c * mean_length * np.linalg.norm(shares @ gradient_TP, axis=1)
    assert worst_case(gram.tolist(), least_mix(gram.tolist(), c), c) <= values.min() + 1e-6


@pytest.mark.parametrize("apart", [0.0, 1e-12, 1e-9, 1e-6])
def test_cagrad_keeps_its_weights_within_what_float32_gradients_bear(apart: float) -> None:
    """The best mix is of the first two tasks, which are against each other, and only `apart` long."""
    gradient_TP = torch.tensor([[1.0, apart], [-1.0, apart], [0.0, 1.0]], dtype=torch.float64)
    shared_T = CAGrad(TASKS, c=0.5).weights(torch.ones(3), gradient_TP @ gradient_TP.T, 0).shared_T
    assert shared_T.max() < 1e4
    mean_P = gradient_TP.mean(dim=0)
    moved_P = shared_T @ gradient_TP.float() / 3 - mean_P.float()
    assert float(moved_P.norm()) <= 0.501 * float(mean_P.norm())


def test_cagrad_improves_the_worst_task_most_within_its_radius() -> None:
    """Against a grid of directions around the mean gradient of two tasks in a plane."""
    gradient_TP = torch.tensor([[1.0, 0.2], [-0.6, 0.5]], dtype=torch.float64)
    mean_P = gradient_TP.mean(dim=0)
    tasks = TASKS[:2]
    shared_T = CAGrad(tasks, c=0.5).weights(torch.ones(2), gradient_TP @ gradient_TP.T, 0).shared_T.double()
    found_P = shared_T @ gradient_TP / 2
    assert float((found_P - mean_P).norm()) == pytest.approx(0.5 * float(mean_P.norm()), rel=1e-5)
    angle = torch.linspace(0, 2 * math.pi, 20_000, dtype=torch.float64)
    circle_NP = mean_P + 0.5 * mean_P.norm() * torch.stack([angle.cos(), angle.sin()], dim=1)
    best = (circle_NP @ gradient_TP.T).min(dim=1).values.max()
    assert float((gradient_TP @ found_P).min()) == pytest.approx(float(best), rel=1e-4)


@pytest.mark.parametrize("name", ["cagrad", "pcgrad"])
def test_a_task_without_a_row_does_not_change_what_the_others_send_back(name: str) -> None:
    gradient_TP = torch.tensor([[1.0, 0.2], [0.0, 0.0], [-0.6, 0.5]], dtype=torch.float64)
    others_TP = gradient_TP[[0, 2]]
    found = BALANCERS[name](TASKS).weights(torch.tensor([1.0, NAN, 1.0]), gradient_TP @ gradient_TP.T, 0)
    expected = BALANCERS[name](TASKS[:2]).weights(torch.ones(2), others_TP @ others_TP.T, 0)
    assert not torch.equal(expected.shared_T, torch.ones(2))
    torch.testing.assert_close(found.shared_T[[0, 2]], expected.shared_T)
    assert found.shared_T[1] == 1


def test_cagrad_without_a_radius_is_the_sum_of_the_gradients() -> None:
    gradient_TP = draw_gradients(3)
    weights = CAGrad(TASKS, c=0.0).weights(torch.ones(3), gradient_TP @ gradient_TP.T, 0)
    assert torch.equal(weights.shared_T, torch.ones(3))


def test_gradnorm_steps_down_the_distance_of_each_norm_from_its_target() -> None:
    balancer = GradNorm(TASKS, alpha=1.5, learning_rate=0.01)
    weight_T, first_T = torch.ones(3), draw_losses(0)
    for step in range(10):
        loss_T, gradient_TP = draw_losses(step), draw_gradients(step)
        found = balancer.weights(loss_T, gradient_TP @ gradient_TP.T, step)
        torch.testing.assert_close(found.loss_T, weight_T, rtol=1e-4, atol=1e-5)
        weight_T.requires_grad_()
        norm_T = (weight_T[:, None] * gradient_TP.float()).norm(dim=1)
        ratio_T = loss_T / first_T
        target_T = (norm_T.mean() * (ratio_T / ratio_T.mean()) ** 1.5).detach()
        (slope_T,) = torch.autograd.grad((norm_T - target_T).abs().sum(), weight_T)
        moved_T = (weight_T.detach() - 0.01 * slope_T).clamp_min(1e-3)
        weight_T = 3 * moved_T / moved_T.sum()


def test_gradnorm_moves_a_task_without_a_row_only_by_what_brings_the_sum_to_the_number_of_tasks() -> None:
    balancer, alone = GradNorm(TASKS), GradNorm(TASKS[:2])
    gradient_TP = torch.tensor([[3.0, 0.0], [0.0, 1.6], [0.0, 0.0]], dtype=torch.float64)
    gram_TT = gradient_TP @ gradient_TP.T
    balancer.weights(torch.tensor([1.0, 1.0, NAN]), gram_TT, 0)
    alone.weights(torch.ones(2), gram_TT[:2, :2], 0)
    # Before the sum is brought to 3, the weights are those of the two tasks alone and the old one of the third, 1.
    moved_T = torch.tensor([1 - 0.025 * 3, 1 + 0.025 * 1.6])
    torch.testing.assert_close(alone.weight_T, 2 * moved_T / moved_T.sum())
    torch.testing.assert_close(balancer.weight_T, 3 * torch.cat([moved_T, torch.ones(1)]) / (1 + moved_T.sum()))


def test_uncertainty_leaves_a_task_without_a_row_where_it_is() -> None:
    balancer = UncertaintyWeights(TASKS)
    balancer.weights(torch.tensor([0.2, 0.7, 0.9]), None, 0)
    before_T = balancer.log_variance_T.clone()
    balancer.weights(torch.tensor([0.2, NAN, 0.9]), None, 1)
    assert (balancer.log_variance_T == before_T).tolist() == [False, True, False]


def test_uncertainty_steps_down_the_likelihood_of_its_noise() -> None:
    balancer = UncertaintyWeights(TASKS, learning_rate=0.05)
    s_T = torch.zeros(3)
    for step in range(20):
        loss_T = draw_losses(step)
        found = balancer.weights(loss_T, None, step)
        torch.testing.assert_close(found.loss_T, torch.exp(-s_T))
        s_T.requires_grad_()
        (slope_T,) = torch.autograd.grad((torch.exp(-s_T) * loss_T + s_T / 2).sum(), s_T)
        s_T = (s_T - 0.05 * slope_T).detach()


def test_uncertainty_ends_at_the_inverse_of_twice_the_loss() -> None:
    balancer = UncertaintyWeights(TASKS, learning_rate=0.5)
    loss_T = torch.tensor([0.1, 0.7, 3.0])
    for step in range(200):
        found = balancer.weights(loss_T, None, step)
    torch.testing.assert_close(found.loss_T, 1 / (2 * loss_T), rtol=1e-3, atol=0)


def test_uncertainty_bounds_the_weight_of_a_task_whose_loss_stays_zero() -> None:
    balancer = UncertaintyWeights(TASKS, learning_rate=5.0)
    for step in range(100):
        found = balancer.weights(torch.tensor([0.0, 0.5, 0.5]), None, step)
    assert found.loss_T.isfinite().all()


def test_dwa_stays_finite_after_a_window_of_zero_losses() -> None:
    balancer = DynamicWeightAverage(TASKS, temperature=0.1, window_steps=1)
    balancer.weights(torch.tensor([0.0, 1.0, 1.0]), None, 0)
    balancer.weights(torch.ones(3), None, 1)
    torch.testing.assert_close(balancer.weights(torch.ones(3), None, 2).loss_T, torch.ones(3))


def test_dwa_compares_the_last_two_windows() -> None:
    balancer = DynamicWeightAverage(TASKS, temperature=2.0, window_steps=3)
    losses = [draw_losses(step) for step in range(9)]
    losses[4][1] = NAN
    found = [balancer.weights(loss_T, None, step).loss_T for step, loss_T in enumerate(losses)]
    assert all(torch.allclose(weight_T, torch.ones(3)) for weight_T in found[:6])
    windows = [torch.stack(losses[first : first + 3]).nanmean(dim=0) for first in (0, 3)]
    expected_T = 3 * torch.softmax(windows[1] / windows[0] / 2.0, dim=0)
    for weight_T in found[6:9]:
        torch.testing.assert_close(weight_T, expected_T)


def test_random_weights_follow_from_seed_and_step_alone_and_average_to_one() -> None:
    balancer = RandomWeights(TASKS, seed=5)
    drawn = torch.stack([balancer.weights(torch.ones(3), None, step).loss_T for step in range(2000)])
    torch.testing.assert_close(drawn.sum(dim=1), torch.full((2000,), 3.0))
    assert (drawn.mean(dim=0) - 1).abs().max() < 0.1
    assert len({tuple(row) for row in drawn.tolist()}) == 2000
    other = RandomWeights(TASKS, seed=6).weights(torch.ones(3), None, 0).loss_T
    assert not torch.equal(other, drawn[0])


def test_metabalance_brings_every_gradient_near_the_size_of_the_targets() -> None:
    balancer = MetaBalance(TASKS, target="like", relax=0.6, beta=0.8)
    average_T = torch.zeros(3)
    for step in range(10):
        gradient_TP = draw_gradients(step)
        norm_T = gradient_TP.norm(dim=1).float()
        average_T = norm_T if step == 0 else 0.8 * average_T + 0.2 * norm_T
        found = balancer.weights(torch.ones(3), gradient_TP @ gradient_TP.T, step)
        torch.testing.assert_close(found.shared_T, 0.6 * average_T[1] / average_T + 0.4, rtol=1e-5, atol=1e-6)
        assert torch.equal(found.loss_T, torch.ones(3))
    whole = MetaBalance(TASKS, relax=1.0, beta=0.0).weights(torch.ones(3), gradient_TP @ gradient_TP.T, 0).shared_T
    sizes = (whole[:, None] * gradient_TP).norm(dim=1)
    torch.testing.assert_close(sizes, sizes[:1].expand(3), rtol=1e-5, atol=1e-6)


def test_metabalance_keeps_the_average_of_a_task_without_a_row() -> None:
    balancer = MetaBalance(TASKS, relax=1.0, beta=0.8)
    balancer.weights(torch.ones(3), torch.diag(torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)), 0)
    absent_TT = torch.diag(torch.tensor([1.0, 0.0, 9.0], dtype=torch.float64))
    found = balancer.weights(torch.tensor([1.0, NAN, 1.0]), absent_TT, 1)
    torch.testing.assert_close(found.shared_T, torch.tensor([1.0, 1 / 2, 1 / 3]))


def test_famo_steps_down_the_log_losses_through_its_softmax() -> None:
    balancer = FAMO(TASKS, learning_rate=0.3, decay=0.01)
    logit_T = torch.zeros(3)
    for step in range(20):
        before_T, after_T = draw_losses(step), draw_losses(step) * (0.8 + 0.2 * draw_losses(step + 500))
        found = balancer.weights(before_T, None, step)
        logit_T.requires_grad_()
        z_T = torch.softmax(logit_T, dim=0)
        # The gradient of sum z log(loss) with respect to what the losses depend on, scaled to weights of T together.
        expected_T = (z_T / before_T).detach()
        torch.testing.assert_close(found.loss_T, 3 * expected_T / expected_T.sum())
        fall_T = before_T.log() - after_T.log()
        (slope_T,) = torch.autograd.grad(z_T, logit_T, fall_T)
        logit_T = (logit_T - 0.3 * (slope_T + 0.01 * logit_T)).detach()
        balancer.observe(after_T)


def test_famo_favours_the_task_that_does_not_improve() -> None:
    balancer = FAMO(TASKS, learning_rate=0.5)
    for step in range(60):
        found = balancer.weights(torch.ones(3), None, step)
        balancer.observe(torch.tensor([0.9, 0.9, 1.0]))
    assert found.loss_T[2] > 1.5 > 1 > found.loss_T[0]


def test_famo_leaves_a_task_without_a_row_where_it_is() -> None:
    """The others move as if it had fallen as much as they did on average."""
    start_T = torch.tensor([0.3, 0.7, -0.2])
    after_T = torch.tensor([0.7, 0.9, NAN])
    balancer = FAMO(TASKS, learning_rate=0.5, decay=0.1)
    balancer.logit_T.copy_(start_T)
    balancer.weights(torch.tensor([1.0, 1.0, NAN]), None, 0)
    balancer.observe(after_T)
    z_T = torch.softmax(start_T, dim=0)
    fall_T = -after_T.log()
    fall_T[2] = (z_T[:2] * fall_T[:2]).sum() / z_T[:2].sum()
    slope_T = z_T * (fall_T - (z_T * fall_T).sum())
    expected_T = start_T - 0.5 * (slope_T + 0.1 * start_T)
    torch.testing.assert_close(balancer.logit_T[:2], expected_T[:2])
    assert balancer.logit_T[2] == start_T[2]
