"""Tasks by hand: what fits together, sample spaces, joint labels, outputs and predictions.

Shapes: B rows, T tasks, O outputs.
"""

import pytest
import torch
from small_tasks import CHAIN, NAN, WATCH
from torch.nn.functional import logsigmoid

from models.heads.esmm import ESMMHead
from models.heads.independent import IndependentHead
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


def test_a_multiclass_task_needs_two_classes() -> None:
    with pytest.raises(ValueError, match="task 'mood' needs at least two classes"):
        check_tasks([Task("mood", "multiclass", classes=("bad",))])


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


def test_the_joint_probability_is_the_product_of_the_conditional_ones() -> None:
    logit_BO = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 3
    said = predictions((*CHAIN, WATCH), logit_BO)
    torch.testing.assert_close(said["click"], logit_BO[:, 0].sigmoid())
    torch.testing.assert_close(said["joint_like"], said["click"] * said["like"])
    torch.testing.assert_close(said["joint_share"], said["click"] * said["like"] * said["share"])
    torch.testing.assert_close(said["watch"], 10 + 4 * logit_BO[:, 3])


def test_the_log_of_a_joint_probability_does_not_underflow() -> None:
    logit_BO = torch.tensor([[-60.0, -60.0, -60.0], [60.0, 60.0, 60.0], [0.0, -100.0, 5.0]])
    found_B = joint_log_probability(CHAIN, CHAIN[2], logit_BO)
    torch.testing.assert_close(found_B.double(), logsigmoid(logit_BO.double()).sum(dim=1), rtol=1e-6, atol=1e-30)
    assert (found_B < 0).all()
    assert found_B[0] == -180.0
