"""The loss of each kind of task by hand and where it is least, and what no label or logit may do to it.

Shapes: B rows, T tasks, O outputs.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tasks import CHAIN, NAN, WATCH, Head, each_head, loss_gradient, loss_sums
from torch import Tensor

from models.heads.esmm import ESMMHead
from models.heads.independent import IndependentHead
from models.losses import LOSSES, task_loss_sums
from models.tasks import Task, output_names, predictions


def loss_of(task: Task, output_BO: Tensor, target_B1: Tensor) -> Tensor:
    """The loss of rows that all train the task, with weight 1."""
    everywhere_B1, weight_B = torch.ones_like(target_B1).bool(), torch.ones(len(target_B1))
    sums_T, _ = task_loss_sums([task], output_BO, target_B1, everywhere_B1, weight_B)
    return sums_T.squeeze()


def slope_of(task: Task, output: float, target_B1: Tensor) -> float:
    """The slope of the loss where all rows have the same output."""
    output_B1 = torch.full_like(target_B1, output, requires_grad=True)
    (slope_B1,) = torch.autograd.grad(loss_of(task, output_B1, target_B1), output_B1)
    return float(slope_B1.sum())


def test_every_kind_of_task_has_a_loss() -> None:
    kinds = Task.__annotations__["kind"].__args__
    assert set(LOSSES) == set(kinds)


def test_the_binary_loss_is_the_cross_entropy_in_nats() -> None:
    task, logits, targets = CHAIN[0], [0.0, 2.0, -1.0, 3.0], [1.0, 1.0, 1.0, 0.0]
    sums_T, weights_T = task_loss_sums(
        [task],
        torch.tensor(logits)[:, None],
        torch.tensor(targets)[:, None],
        torch.tensor([True, True, False, True])[:, None],
        torch.tensor([1.0, 0.5, 9.0, 2.0]),
    )
    expected = math.log(2) + 0.5 * math.log1p(math.exp(-2)) + 2 * math.log1p(math.exp(3))
    assert sums_T.tolist() == pytest.approx([expected], rel=1e-6)
    assert weights_T.tolist() == [3.5]


def test_a_positive_weight_counts_positive_rows_so_often_and_leaves_the_probability_right() -> None:
    """Of 3 positive and 7 negative rows the probability is .3 whatever the weight; only the way there differs."""
    target_B1 = torch.tensor([[1.0]] * 3 + [[0.0]] * 7)
    for positive_weight in (0.2, 1.0, 6.0):
        task = Task("click", "binary", positive_weight=positive_weight)
        output = torch.tensor([math.log(3 / 7)], requires_grad=True)
        sum_ = loss_of(task, output.expand(10, 1), target_B1)
        (slope,) = torch.autograd.grad(sum_, output)
        assert slope.item() == pytest.approx(0, abs=1e-5)
        p = 1 / (1 + 7 / (3 * positive_weight))
        assert sum_.item() == pytest.approx(-3 * positive_weight * math.log(p) - 7 * math.log(1 - p), rel=1e-5)
        assert predictions([task], output[None].detach())["click"].item() == pytest.approx(0.3)


def test_the_multiclass_loss_is_the_cross_entropy_of_the_class_in_nats() -> None:
    task = Task("mood", "multiclass", classes=("bad", "fair", "good"))
    logit_BO = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
    mask = torch.tensor([[True], [True], [False]])
    (sum_,), _ = task_loss_sums([task], logit_BO, torch.tensor([[2.0], [1.0], [0.0]]), mask, torch.ones(3))
    of_first = math.log(1 + math.exp(1) + math.exp(2)) - 2
    of_second = math.log(math.exp(3) + 2)
    assert sum_.item() == pytest.approx(of_first + of_second, rel=1e-6)
    said = predictions([task], logit_BO)
    assert [*said] == ["mood_bad", "mood_fair", "mood_good"] == output_names([task])
    torch.testing.assert_close(torch.stack([*said.values()], dim=1), logit_BO.softmax(dim=1))


def test_the_regression_loss_is_half_the_squared_error_in_units_of_the_scale() -> None:
    sums_T, weights_T = task_loss_sums(
        [WATCH], torch.tensor([[0.5], [0.0]]), torch.tensor([[14.0], [2.0]]), torch.ones(2, 1).bool(), torch.ones(2)
    )
    assert sums_T.tolist() == pytest.approx([0.5 * (0.5 - 1) ** 2 + 0.5 * (0 + 2) ** 2])
    assert weights_T.tolist() == [2.0]


@given(st.lists(st.integers(-100, 100), min_size=1, max_size=20))
def test_the_regression_loss_is_least_at_the_mean(labels: list[int]) -> None:
    target_B1 = torch.tensor(labels, dtype=torch.float32)[:, None]
    task = Task("watch", "regression", center=7.0, scale=5.0)

    def slope_at(value: float) -> float:
        return slope_of(task, (value - task.center) / task.scale, target_B1)

    mean = sum(labels) / len(labels)
    assert slope_at(mean) == pytest.approx(0, abs=1e-3)
    assert slope_at(mean + 1) > 0 > slope_at(mean - 1)


def test_the_mean_is_what_predictions_say_at_the_least_loss() -> None:
    labels = [4.0, 9.0, 20.0]
    task = Task("watch", "regression", center=10.0, scale=4.0)
    output = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([output], lr=0.3)
    target_B1 = torch.tensor(labels)[:, None]
    for _ in range(50):
        optimizer.zero_grad()
        loss_of(task, output.expand(3, 1), target_B1).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert predictions([task], output[None])["watch"].item() == pytest.approx(11.0, abs=1e-4)


def test_huber_loss_is_square_up_to_its_delta_and_linear_beyond() -> None:
    task = Task("watch", "regression", center=10.0, scale=4.0, huber_delta=1.5)
    outputs, targets = [0.0, 0.0, 1.0], [14.0, 30.0, -10.0]
    found = loss_of(task, torch.tensor(outputs)[:, None], torch.tensor(targets)[:, None])
    errors = [abs(output - (target - 10) / 4) for output, target in zip(outputs, targets, strict=True)]
    expected = sum(0.5 * e * e if e <= 1.5 else 1.5 * (e - 0.75) for e in errors)
    assert found.item() == pytest.approx(expected)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=20))
def test_the_watch_time_loss_is_least_where_the_odds_are_the_mean(labels: list[int]) -> None:
    target_B1 = torch.tensor(labels, dtype=torch.float32)[:, None]
    task = Task("watch", "watch_time", scale=50.0)

    def slope_at(seconds: float) -> float:
        return slope_of(task, math.log(seconds / task.scale), target_B1)

    mean = sum(labels) / len(labels)
    if mean > 0:
        assert slope_at(mean) == pytest.approx(0, abs=1e-3)
    assert slope_at(mean + 1) > 0
    assert mean <= 1 or slope_at(mean - 0.9) < 0
    said = predictions([task], torch.full((1, 1), math.log((mean + 1) / task.scale)))
    assert said["watch"].item() == pytest.approx(mean + 1, rel=1e-5)


def test_a_watch_time_stays_finite_at_any_output() -> None:
    task = Task("watch", "watch_time", scale=30.0)
    output_B1 = torch.tensor([[-200.0], [0.0], [200.0]], requires_grad=True)
    loss = loss_of(task, output_B1, torch.tensor([[5.0], [0.0], [1e5]]))
    (gradient_B1,) = torch.autograd.grad(loss, output_B1)
    assert gradient_B1.isfinite().all()
    assert predictions([task], output_B1.detach())["watch"].isfinite().all()


def test_losses_are_float32_whatever_the_precision_of_the_logits() -> None:
    logit_BO = torch.tensor([[0.3, 1.0, -2.0, 0.5]], dtype=torch.bfloat16)
    label_BT = torch.tensor([[1.0, 1.0, 0.0, 12.0]])
    for head in (IndependentHead, ESMMHead):
        assert loss_sums(head, (*CHAIN, WATCH), logit_BO, label_BT, torch.ones(1)).dtype == torch.float32


@each_head
@pytest.mark.parametrize(
    "labels",
    [
        [[1.0, 1.0, 1.0, 3.0]] * 3,
        [[0.0, 0.0, 0.0, 3.0]] * 3,
        [[0.0, NAN, NAN, NAN]] * 3,
        [[NAN, NAN, NAN, NAN]] * 3,
    ],
    ids=["ones only", "zeros only", "empty spaces", "no label"],
)
def test_a_batch_of_one_class_or_without_a_space_gives_a_finite_loss(head: Head, labels: list[list[float]]) -> None:
    sums_T, gradient_BT = loss_gradient(head, (*CHAIN, WATCH), [[0.3, -1.0, 2.0, 0.5]] * 3, labels)
    assert sums_T.isfinite().all()
    assert gradient_BT.isfinite().all()
    assert (sums_T[0] > 0) == (not math.isnan(labels[0][0]))


any_label = st.sampled_from([0.0, 1.0, NAN])
any_logit = st.sampled_from([-100.0, -50.0, -1.0, 0.0, 0.7, 50.0, 100.0])
any_row = st.tuples(
    st.tuples(any_label, any_label, any_label, st.sampled_from([NAN, -3.0, 0.0, 1e4])),
    st.tuples(any_logit, any_logit, any_logit, any_logit),
    st.sampled_from([0.0, 1.0, 2.5]),
)


@each_head
@settings(max_examples=150)
@given(rows=st.lists(any_row, min_size=1, max_size=6))
def test_a_null_label_never_reaches_a_loss_or_a_gradient(
    head: Head, rows: list[tuple[tuple[float, ...], tuple[float, ...], float]]
) -> None:
    """Also where the tensors before the head get the gradient, as the towers do."""
    labels, logits, weights = zip(*rows, strict=True)
    tasks = (*CHAIN, WATCH)
    x_BT = torch.tensor(logits, requires_grad=True)
    scale_T = torch.ones(4, requires_grad=True)
    label_BT, weight_B = torch.tensor(labels), torch.tensor(weights)
    _, target_BT, mask_BT = head(tasks)(x_BT, label_BT)
    sums_T = loss_sums(head, tasks, x_BT * scale_T, label_BT, weight_B)
    of_rows_BT, of_scale_T = torch.autograd.grad(sums_T.sum(), [x_BT, scale_T])
    assert target_BT.isfinite().all()
    for part in (sums_T, of_rows_BT, of_scale_T):
        assert part.isfinite().all()
    is_trained_B = mask_BT.any(dim=1) & (weight_B > 0)
    assert (of_rows_BT[~is_trained_B] == 0).all()
