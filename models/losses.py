"""Per-task losses, summed over the rows on which the task is trained. A new kind of task adds one line to LOSSES."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from models.tasks import Task


def _binary(task: Task, logit_B: Tensor, target_B: Tensor) -> Tensor:
    """Cross-entropy in nats, from the logit."""
    return functional.binary_cross_entropy_with_logits(logit_B, target_B, reduction="none")


def _regression(task: Task, output_B: Tensor, target_B: Tensor) -> Tensor:
    """Half the squared error in units of the task's scale: its minimum is the conditional mean."""
    return 0.5 * (output_B - (target_B - task.center) / task.scale).square()


LOSSES: dict[str, Callable[[Task, Tensor, Tensor], Tensor]] = {"binary": _binary, "regression": _regression}


def task_loss_sums(
    tasks: Sequence[Task], logit_BT: Tensor, target_BT: Tensor, mask_BT: Tensor, weight_B: Tensor
) -> tuple[Tensor, Tensor]:
    """The weighted loss sum and the weight sum of each task, both [T] in float32.

    A row outside a task's mask adds exactly zero to the loss and to every gradient.
    """
    weight_BT = mask_BT.float() * weight_B.unsqueeze(1)
    columns = [
        LOSSES[task.kind](task, logit_BT[:, place].float(), target_BT[:, place].float())
        for place, task in enumerate(tasks)
    ]
    return (torch.stack(columns, dim=1) * weight_BT).sum(dim=0), weight_BT.sum(dim=0)
