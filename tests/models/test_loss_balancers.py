"""Balancers of losses, each against its paper: a plain implementation on a run of losses.

Shapes: T tasks.
"""

import torch
from drawn_losses import NAN, TASKS, draw_losses

from models.balancers.dwa import DynamicWeightAverage
from models.balancers.famo import FAMO
from models.balancers.random_weights import RandomWeights
from models.balancers.uncertainty import UncertaintyWeights

# --- uncertainty weights


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


def test_uncertainty_leaves_a_task_without_a_row_where_it_is() -> None:
    balancer = UncertaintyWeights(TASKS)
    balancer.weights(torch.tensor([0.2, 0.7, 0.9]), None, 0)
    before_T = balancer.log_variance_T.clone()
    balancer.weights(torch.tensor([0.2, NAN, 0.9]), None, 1)
    assert (balancer.log_variance_T == before_T).tolist() == [False, True, False]


# --- dynamic weight average


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


def test_dwa_stays_finite_after_a_window_of_zero_losses() -> None:
    balancer = DynamicWeightAverage(TASKS, temperature=0.1, window_steps=1)
    balancer.weights(torch.tensor([0.0, 1.0, 1.0]), None, 0)
    balancer.weights(torch.ones(3), None, 1)
    torch.testing.assert_close(balancer.weights(torch.ones(3), None, 2).loss_T, torch.ones(3))


# --- random weights


def test_random_weights_follow_from_seed_and_step_alone_and_average_to_one() -> None:
    balancer = RandomWeights(TASKS, seed=5)
    drawn = torch.stack([balancer.weights(torch.ones(3), None, step).loss_T for step in range(2000)])
    torch.testing.assert_close(drawn.sum(dim=1), torch.full((2000,), 3.0))
    assert (drawn.mean(dim=0) - 1).abs().max() < 0.1
    assert len({tuple(row) for row in drawn.tolist()}) == 2000
    other = RandomWeights(TASKS, seed=6).weights(torch.ones(3), None, 0).loss_T
    assert not torch.equal(other, drawn[0])


# --- FAMO


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
