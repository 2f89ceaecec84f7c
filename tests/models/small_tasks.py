"""Tasks of a chain and one beside it, and the losses that a head gives them.

Shapes: B rows, T tasks, O outputs.
"""

import pytest
import torch
from torch import Tensor

from models.heads.esmm import ESMMHead
from models.heads.independent import IndependentHead
from models.losses import task_loss_sums
from models.tasks import Task

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
