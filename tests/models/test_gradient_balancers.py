"""Balancers of gradients, each against its paper: a plain implementation on explicit gradients, a solver or a grid.

Shapes: T tasks, P parameters of an explicit gradient, N directions.
"""

import math

import numpy as np
import pytest
import torch
from drawn_losses import NAN, TASKS, draw_gradients, draw_losses
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from models.balancers.cagrad import CAGrad, least_mix, worst_case
from models.balancers.gradnorm import GradNorm
from models.balancers.metabalance import MetaBalance
from models.balancers.pcgrad import PCGrad, projection_order
from models.catalogue import BALANCERS
from models.tasks import Task

seeds = st.integers(0, 10_000)


# --- PCGrad


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


# --- CAGrad


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


def test_cagrad_without_a_radius_is_the_sum_of_the_gradients() -> None:
    gradient_TP = draw_gradients(3)
    weights = CAGrad(TASKS, c=0.0).weights(torch.ones(3), gradient_TP @ gradient_TP.T, 0)
    assert torch.equal(weights.shared_T, torch.ones(3))


@pytest.mark.parametrize("name", ["cagrad", "pcgrad"])
def test_a_task_without_a_row_does_not_change_what_the_others_send_back(name: str) -> None:
    gradient_TP = torch.tensor([[1.0, 0.2], [0.0, 0.0], [-0.6, 0.5]], dtype=torch.float64)
    others_TP = gradient_TP[[0, 2]]
    found = BALANCERS[name](TASKS).weights(torch.tensor([1.0, NAN, 1.0]), gradient_TP @ gradient_TP.T, 0)
    expected = BALANCERS[name](TASKS[:2]).weights(torch.ones(2), others_TP @ others_TP.T, 0)
    assert not torch.equal(expected.shared_T, torch.ones(2))
    torch.testing.assert_close(found.shared_T[[0, 2]], expected.shared_T)
    assert found.shared_T[1] == 1


# --- GradNorm


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


# --- MetaBalance


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
