"""What each head trains, on which rows and towards what: by hand, and against float64.

Shapes: B rows, T tasks, O outputs, C tasks of a chain.
"""

import itertools
import math

import pytest
import torch
from small_tasks import CHAIN, NAN, WATCH, loss_gradient
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from models.heads.esmm import ESMMHead
from models.heads.independent import IndependentHead
from models.tasks import predictions, space_mask


def test_the_independent_head_by_hand() -> None:
    label_BT = torch.tensor([[1.0, 1.0, NAN, 3.0], [0.0, NAN, 1.0, 2.0], [NAN, 0.0, 0.0, NAN], [1.0, 0.0, 1.0, 7.0]])
    logit_BO = torch.randn(4, 4)
    trained_BO, target_BT, mask_BT = IndependentHead((*CHAIN, WATCH))(logit_BO, label_BT)
    assert torch.equal(trained_BO, logit_BO)
    assert torch.equal(mask_BT, space_mask((*CHAIN, WATCH), label_BT))
    assert torch.equal(target_BT[mask_BT], label_BT[mask_BT])
    assert target_BT.isfinite().all()


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


def test_the_entire_space_head_also_trains_rows_outside_the_space() -> None:
    """An impression without a click lowers p(click) p(like | click): both factors get a gradient."""
    _, gradient_BT = loss_gradient(ESMMHead, CHAIN[:2], [[0.5, -0.2], [0.5, -0.2]], [[0.0, NAN], [1.0, NAN]])
    assert (gradient_BT > 0).tolist() == [[True, True], [False, False]]
    assert gradient_BT[1, 1] == 0


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


def test_the_head_trains_the_probability_that_predictions_give() -> None:
    logit_BO = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    trained_BO, _, _ = ESMMHead(CHAIN)(logit_BO, torch.zeros(20, 3))
    said = predictions(CHAIN, logit_BO)
    for place, name in enumerate(("click", "joint_like", "joint_share")):
        torch.testing.assert_close(trained_BO[:, place].sigmoid(), said[name])
