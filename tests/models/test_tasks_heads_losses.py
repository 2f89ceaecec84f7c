"""Sample spaces, heads, losses and predictions by hand, and against float64."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from models.heads.esmm import ESMMHead
from models.heads.independent import IndependentHead
from models.losses import LOSSES, task_loss_sums
from models.tasks import (
    Task,
    chain_of,
    check_tasks,
    joint_label,
    joint_log_probability,
    output_columns,
    output_names,
    predictions,
    space_mask,
)

NAN = float("nan")
CHAIN = (Task("click", "binary"), Task("like", "binary", space="click"), Task("share", "binary", space="like"))
WATCH = Task("watch", "regression", space="click", center=10.0, scale=4.0)
Head = type[IndependentHead] | type[ESMMHead]
each_head = pytest.mark.parametrize("head", [IndependentHead, ESMMHead])


def loss_sums(head: Head, tasks: tuple[Task, ...], logit_BO: Tensor, label_BT: Tensor, weight_B: Tensor) -> Tensor:
    trained_BO, target_BT, mask_BT = head(tasks)(logit_BO, label_BT)
    return task_loss_sums(tasks, trained_BO, target_BT, mask_BT, weight_B)[0]


def loss_gradient(
    head: Head, tasks: tuple[Task, ...], logits: list[list[float]], labels: list[list[float]]
) -> tuple[Tensor, Tensor]:
    """The loss sum of each task, and the gradient of their sum with respect to every logit."""
    logit_BO = torch.tensor(logits, requires_grad=True)
    sums_T = loss_sums(head, tasks, logit_BO, torch.tensor(labels), torch.ones(len(labels)))
    (gradient_BT,) = torch.autograd.grad(sums_T.sum(), logit_BO)
    return sums_T.detach(), gradient_BT


# --- tasks


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([Task("a", "binary"), Task("a", "regression")], "task 'a' is given twice"),
        ([Task("a", "binary", space="b"), Task("b", "binary")], "task 'a': space 'b' is not a binary task before it"),
        ([Task("a", "binary", space="a")], "task 'a': space 'a' is not a binary task before it"),
        ([Task("a", "regression"), Task("b", "binary", space="a")], "space 'a' is not a binary task before it"),
        ([Task("a", "binary"), Task("b", "binary", space="c")], "space 'c' is not a binary task before it"),
    ],
)
def test_tasks_that_do_not_fit_together_are_refused(tasks: list[Task], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_tasks(tasks)


def test_tasks_that_fit_together_are_accepted() -> None:
    check_tasks((*CHAIN, WATCH))
    check_tasks([])


def test_a_chain_begins_with_the_task_that_all_others_depend_on() -> None:
    tasks = (CHAIN[0], WATCH, CHAIN[1], CHAIN[2])
    assert [chain_of(tasks, task) for task in tasks] == [[0], [0, 1], [0, 2], [0, 2, 3]]


def test_the_space_mask_of_six_rows_by_hand() -> None:
    label_BT = torch.tensor(
        [
            [1.0, 1.0, 0.0, 5.0],
            [1.0, 0.0, 1.0, 5.0],
            [0.0, 1.0, 1.0, 5.0],
            [NAN, 1.0, 1.0, 5.0],
            [1.0, NAN, 1.0, NAN],
            [1.0, 1.0, NAN, 0.0],
        ]
    )
    assert space_mask((*CHAIN, WATCH), label_BT).tolist() == [
        [True, True, True, True],
        [True, True, False, True],
        [True, False, False, False],
        [False, False, False, False],
        [True, False, False, False],
        [True, True, False, True],
    ]


def test_the_joint_label_of_a_chain_by_hand() -> None:
    """A 0 decides it wherever it stands, even beside a null; a null with no 0 leaves it unknown."""
    chains = {
        (1.0, 1.0, 1.0): (1.0, True),
        (1.0, 1.0, 0.0): (0.0, True),
        (1.0, 0.0, NAN): (0.0, True),
        (0.0, NAN, NAN): (0.0, True),
        (0.0, 1.0, 1.0): (0.0, True),
        (NAN, 0.0, 1.0): (0.0, True),
        (NAN, NAN, 0.0): (0.0, True),
        (1.0, 1.0, NAN): (0.0, False),
        (NAN, 1.0, 1.0): (0.0, False),
        (NAN, NAN, NAN): (0.0, False),
    }
    target_B, known_B = joint_label(torch.tensor(list(chains)))
    assert list(zip(target_B.tolist(), known_B.tolist(), strict=True)) == list(chains.values())


# --- heads


def test_the_independent_head_by_hand() -> None:
    label_BT = torch.tensor([[1.0, 1.0, NAN, 3.0], [0.0, NAN, 1.0, 2.0], [NAN, 0.0, 0.0, NAN], [1.0, 0.0, 1.0, 7.0]])
    logit_BO = torch.randn(4, 4)
    trained_BO, target_BT, mask_BT = IndependentHead((*CHAIN, WATCH))(logit_BO, label_BT)
    assert torch.equal(trained_BO, logit_BO)
    assert torch.equal(mask_BT, space_mask((*CHAIN, WATCH), label_BT))
    assert torch.equal(target_BT[mask_BT], label_BT[mask_BT])
    assert target_BT.isfinite().all()


def test_the_entire_space_head_trains_a_conditional_task_on_all_rows_by_hand() -> None:
    tasks = (*CHAIN[:2], WATCH)
    label_BT = torch.tensor([[1.0, 1.0, 3.0], [1.0, 0.0, 4.0], [0.0, NAN, NAN], [0.0, 1.0, 6.0], [1.0, NAN, NAN]])
    _, target_BT, mask_BT = ESMMHead(tasks)(torch.zeros(5, 3), label_BT)
    assert mask_BT.tolist() == [
        [True, True, True],
        [True, True, True],
        [True, True, False],
        [True, True, False],
        [True, False, False],
    ]
    assert target_BT[:, 0].tolist() == [1, 1, 0, 0, 1]
    assert target_BT[:4, 1].tolist() == [1, 0, 0, 0]
    assert target_BT[:2, 2].tolist() == [3, 4]
    assert target_BT.isfinite().all()


def test_the_entire_space_head_leaves_other_tasks_as_they_are() -> None:
    logit_BO = torch.randn(5, 4)
    label_BT = torch.tensor([[1.0, 1.0, 0.0, 2.0]]).expand(5, 4)
    trained_BO, _, _ = ESMMHead((*CHAIN, WATCH))(logit_BO, label_BT)
    assert torch.equal(trained_BO[:, [0, 3]], logit_BO[:, [0, 3]])
    assert not torch.allclose(trained_BO[:, 1:3], logit_BO[:, 1:3])


def test_the_entire_space_head_needs_a_conditional_binary_task() -> None:
    for tasks in (CHAIN[:1], (CHAIN[0], WATCH)):
        with pytest.raises(ValueError, match="needs a binary task with a space"):
            ESMMHead(tasks)


def reference_log_odds(logit_BC: Tensor) -> Tensor:
    """log p - log(1 - p) of p = the product of sigmoids, in float64.

    1 - p is the sum, over the place where the chain first fails, of positive terms: nothing cancels.
    """
    x = logit_BC.double()
    reached = torch.cumsum(logsigmoid(x), dim=1)
    before = torch.cat([torch.zeros_like(reached[:, :1]), reached[:, :-1]], dim=1)
    return reached[:, -1] - torch.logsumexp(before + logsigmoid(-x), dim=1)


LOGITS = (-50.0, -20.0, -3.0, 0.0, 1.5, 8.0, 20.0, 50.0)


@pytest.mark.parametrize("length", [2, 3])
def test_the_trained_logit_of_a_chain_equals_its_log_odds_in_float64(length: int) -> None:
    tasks = CHAIN[:length]
    logit_BO = torch.tensor(list(itertools.product(LOGITS, repeat=length)))
    trained_BO, _, _ = ESMMHead(tasks)(logit_BO, torch.zeros_like(logit_BO))
    expected_B = reference_log_odds(logit_BO)
    torch.testing.assert_close(trained_BO[:, -1].double(), expected_B, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_the_gradient_of_a_chain_is_finite_and_equals_float64_at_extreme_logits(target: float) -> None:
    """A confident mistake must still be corrected: at logits of 50 and target 0 the gradient is not small."""
    tasks = CHAIN[:2]
    logit_BO = torch.tensor(list(itertools.product(LOGITS, repeat=2)), requires_grad=True)
    label_BT = torch.full_like(logit_BO, target)
    trained_B = ESMMHead(tasks)(logit_BO, label_BT)[0][:, 1]
    (found_BT,) = torch.autograd.grad(binary_cross_entropy_with_logits(trained_B, label_BT[:, 1]), logit_BO)
    exact_BT = logit_BO.detach().double().requires_grad_()
    loss = binary_cross_entropy_with_logits(reference_log_odds(exact_BT), label_BT[:, 1].double())
    (expected_BT,) = torch.autograd.grad(loss, exact_BT)
    assert found_BT.isfinite().all()
    torch.testing.assert_close(found_BT.double(), expected_BT, rtol=1e-4, atol=1e-7)


def test_the_loss_of_a_joint_task_is_the_cross_entropy_of_the_product() -> None:
    logits, labels = [[0.3, -0.7], [1.1, 0.2], [-0.4, 2.0]], [[1.0, 1.0], [1.0, 0.0], [0.0, NAN]]
    sums_T, _ = loss_gradient(ESMMHead, CHAIN[:2], logits, labels)
    p = [1 / (1 + math.exp(-a)) / (1 + math.exp(-b)) for a, b in logits]
    assert sums_T[1].item() == pytest.approx(-math.log(p[0]) - math.log(1 - p[1]) - math.log(1 - p[2]), rel=1e-5)


def test_the_independent_head_trains_a_conditional_task_on_the_rows_of_its_space_only() -> None:
    labels = [[1.0, 1.0, 3.0], [0.0, 1.0, 3.0], [0.0, 0.0, 8.0], [NAN, 1.0, 3.0], [1.0, NAN, NAN], [1.0, 0.0, 9.0]]
    _, gradient_BT = loss_gradient(IndependentHead, (*CHAIN[:2], WATCH), [[0.5, -0.2, 1.0]] * 6, labels)
    assert (gradient_BT != 0).tolist() == [
        [True, True, True],
        [True, False, False],
        [True, False, False],
        [False, False, False],
        [True, False, False],
        [True, True, True],
    ]


def test_the_entire_space_head_also_trains_rows_outside_the_space() -> None:
    """An impression without a click lowers p(click) p(like | click): both factors get a gradient."""
    _, gradient_BT = loss_gradient(ESMMHead, CHAIN[:2], [[0.5, -0.2], [0.5, -0.2]], [[0.0, NAN], [1.0, NAN]])
    assert (gradient_BT > 0).tolist() == [[True, True], [False, False]]
    assert gradient_BT[1, 1] == 0


# --- losses


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
        output = torch.full_like(target_B1, (value - task.center) / task.scale, requires_grad=True)
        loss = task_loss_sums([task], output, target_B1, torch.ones_like(target_B1).bool(), torch.ones(len(labels)))[0]
        return float(torch.autograd.grad(loss.sum(), output)[0].sum())

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
        sums_T, _ = task_loss_sums([task], output.expand(3, 1), target_B1, torch.ones(3, 1).bool(), torch.ones(3))
        sums_T.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert predictions([task], output[None])["watch"].item() == pytest.approx(11.0, abs=1e-4)


def test_a_positive_weight_counts_positive_rows_so_often_and_leaves_the_probability_right() -> None:
    """Of 3 positive and 7 negative rows the probability is .3 whatever the weight; only the way there differs."""
    target_B1 = torch.tensor([[1.0]] * 3 + [[0.0]] * 7)
    everywhere, weight_B = torch.ones(10, 1).bool(), torch.ones(10)
    for positive_weight in (0.2, 1.0, 6.0):
        task = Task("click", "binary", positive_weight=positive_weight)
        output = torch.tensor([math.log(3 / 7)], requires_grad=True)
        (sum_,), _ = task_loss_sums([task], output.expand(10, 1), target_B1, everywhere, weight_B)
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


def test_a_multiclass_task_needs_two_classes() -> None:
    with pytest.raises(ValueError, match="task 'mood' needs at least two classes"):
        check_tasks([Task("mood", "multiclass", classes=("bad",))])


def test_outputs_lie_in_the_order_of_the_tasks_one_column_or_one_per_class() -> None:
    mood = Task("mood", "multiclass", classes=("bad", "fair", "good"))
    tasks = (CHAIN[0], mood, CHAIN[1], WATCH)
    assert output_columns(tasks) == [slice(0, 1), slice(1, 4), slice(4, 5), slice(5, 6)]
    logit_BO = torch.randn(4, 6)
    for head in (IndependentHead, ESMMHead):
        trained_BO, _, _ = head(tasks)(logit_BO, torch.zeros(4, 4))
        assert torch.equal(trained_BO[:, [0, 1, 2, 3, 5]], logit_BO[:, [0, 1, 2, 3, 5]])
    said = predictions(tasks, logit_BO)
    torch.testing.assert_close(said["like"], logit_BO[:, 4].sigmoid())
    torch.testing.assert_close(said["joint_like"], logit_BO[:, 0].sigmoid() * logit_BO[:, 4].sigmoid())


@given(st.lists(st.integers(0, 500), min_size=1, max_size=20))
def test_the_watch_time_loss_is_least_where_the_odds_are_the_mean(labels: list[int]) -> None:
    target_B1 = torch.tensor(labels, dtype=torch.float32)[:, None]
    task = Task("watch", "watch_time", scale=50.0)

    def slope_at(seconds: float) -> float:
        output = torch.full_like(target_B1, math.log(seconds / task.scale), requires_grad=True)
        loss = task_loss_sums([task], output, target_B1, torch.ones_like(target_B1).bool(), torch.ones(len(labels)))[0]
        return float(torch.autograd.grad(loss.sum(), output)[0].sum())

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
    target_B1, everywhere = torch.tensor([[5.0], [0.0], [1e5]]), torch.ones(3, 1).bool()
    sums_T, _ = task_loss_sums([task], output_B1, target_B1, everywhere, torch.ones(3))
    (gradient_B1,) = torch.autograd.grad(sums_T.sum(), output_B1)
    assert gradient_B1.isfinite().all()
    assert predictions([task], output_B1.detach())["watch"].isfinite().all()


def test_huber_loss_is_square_up_to_its_delta_and_linear_beyond() -> None:
    task = Task("watch", "regression", center=10.0, scale=4.0, huber_delta=1.5)
    outputs, targets = [0.0, 0.0, 1.0], [14.0, 30.0, -10.0]
    sums_T, _ = task_loss_sums(
        [task], torch.tensor(outputs)[:, None], torch.tensor(targets)[:, None], torch.ones(3, 1).bool(), torch.ones(3)
    )
    errors = [abs(output - (target - 10) / 4) for output, target in zip(outputs, targets, strict=True)]
    expected = sum(0.5 * e * e if e <= 1.5 else 1.5 * (e - 0.75) for e in errors)
    assert sums_T.tolist() == pytest.approx([expected])


def test_every_kind_of_task_has_a_loss() -> None:
    kinds = Task.__annotations__["kind"].__args__
    assert set(LOSSES) == set(kinds)


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


# --- predictions


def test_the_joint_probability_is_the_product_of_the_conditional_ones() -> None:
    logit_BO = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 3
    said = predictions((*CHAIN, WATCH), logit_BO)
    torch.testing.assert_close(said["click"], logit_BO[:, 0].sigmoid())
    torch.testing.assert_close(said["joint_like"], said["click"] * said["like"])
    torch.testing.assert_close(said["joint_share"], said["click"] * said["like"] * said["share"])
    torch.testing.assert_close(said["watch"], 10 + 4 * logit_BO[:, 3])


@pytest.mark.parametrize(
    ("tasks", "names"),
    [
        (CHAIN[:1], ["click"]),
        ((CHAIN[0], WATCH), ["click", "watch"]),
        ((*CHAIN, WATCH), ["click", "like", "share", "watch", "joint_like", "joint_share"]),
    ],
)
def test_output_names_are_the_names_of_the_predictions(tasks: tuple[Task, ...], names: list[str]) -> None:
    assert output_names(tasks) == names
    assert sorted(predictions(tasks, torch.zeros(2, len(tasks)))) == sorted(names)


def test_the_log_of_a_joint_probability_does_not_underflow() -> None:
    logit_BO = torch.tensor([[-60.0, -60.0, -60.0], [60.0, 60.0, 60.0], [0.0, -100.0, 5.0]])
    found_B = joint_log_probability(CHAIN, CHAIN[2], logit_BO)
    torch.testing.assert_close(found_B.double(), logsigmoid(logit_BO.double()).sum(dim=1), rtol=1e-6, atol=1e-30)
    assert (found_B < 0).all()
    assert found_B[0] == -180.0


def test_the_head_trains_the_probability_that_predictions_give() -> None:
    logit_BO = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    trained_BO, _, _ = ESMMHead(CHAIN)(logit_BO, torch.zeros(20, 3))
    said = predictions(CHAIN, logit_BO)
    for place, name in enumerate(("click", "joint_like", "joint_share")):
        torch.testing.assert_close(trained_BO[:, place].sigmoid(), said[name])
