"""Per-task losses, summed over the rows on which the task is trained. A new kind of task adds one line to LOSSES.

Shapes: B rows, T tasks, O outputs of all tasks.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from models.tasks import MAX_LOG_ODDS, Task, output_columns


def _binary(task: Task, logit_BO: Tensor, target_B: Tensor) -> Tensor:
    """Cross-entropy in nats, from the logit.

    With a positive weight w, rows with label 1 count w times. That multiplies the odds that fit best by w, so log w is
    added to the logit here: what the model gives stays the probability itself.
    """
    logit_B, weight = logit_BO.squeeze(1), task.positive_weight
    if weight == 1.0:
        return functional.binary_cross_entropy_with_logits(logit_B, target_B, reduction="none")
    return functional.binary_cross_entropy_with_logits(
        logit_B + math.log(weight), target_B, reduction="none", pos_weight=logit_B.new_tensor(weight)
    )


def _multiclass(task: Task, logit_BO: Tensor, target_B: Tensor) -> Tensor:
    """Cross-entropy of the softmax in nats."""
    return functional.cross_entropy(logit_BO, target_B.long(), reduction="none")


def _regression(task: Task, output_BO: Tensor, target_B: Tensor) -> Tensor:
    """Half the squared error in units of the task's scale, whose minimum is the conditional mean.

    With a Huber delta the loss is linear beyond it (Huber 1964): less moved by outliers, and no longer the mean.
    """
    scaled_B = (target_B - task.center) / task.scale
    if task.huber_delta is None:
        return 0.5 * (output_BO.squeeze(1) - scaled_B).square()
    return functional.huber_loss(output_BO.squeeze(1), scaled_B, reduction="none", delta=task.huber_delta)


def _watch_time(task: Task, output_BO: Tensor, target_B: Tensor) -> Tensor:
    """Weighted logistic loss (Covington et al., RecSys 2016): the odds are the expected watch time, in units of scale.

    Each row counts `target / scale` times as a positive and once as a negative, whose best odds are the mean itself.
    The paper leaves the negative of watched rows out, and so its odds are too high by 1 / (1 - share of watched rows).
    """
    log_odds_B = output_BO.squeeze(1).clamp(max=MAX_LOG_ODDS)
    return functional.softplus(log_odds_B) + target_B / task.scale * functional.softplus(-log_odds_B)


LOSSES: dict[str, Callable[[Task, Tensor, Tensor], Tensor]] = {
    "binary": _binary,
    "multiclass": _multiclass,
    "regression": _regression,
    "watch_time": _watch_time,
}


def task_loss_sums(
    tasks: Sequence[Task], logit_BO: Tensor, target_BT: Tensor, mask_BT: Tensor, weight_B: Tensor
) -> tuple[Tensor, Tensor]:
    """The weighted loss sum and the weight sum of each task, both [T] in float32.

    A row outside a task's mask adds exactly zero to the loss and to every gradient.
    """
    weight_BT = mask_BT.float() * weight_B.unsqueeze(1)
    columns = [
        LOSSES[task.kind](task, logit_BO[:, own].float(), target_BT[:, place].float())
        for place, (task, own) in enumerate(zip(tasks, output_columns(tasks), strict=True))
    ]
    return (torch.stack(columns, dim=1) * weight_BT).sum(dim=0), weight_BT.sum(dim=0)
