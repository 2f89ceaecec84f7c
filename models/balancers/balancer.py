"""What every balancer is: from the losses and the gradients of the tasks to the weight of each task in one step.

Shapes: T tasks.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from models.tasks import Task


class Weights(NamedTuple):
    """`loss_T` multiplies each task's loss; `shared_T` multiplies, on top of it, what reaches the shared part."""

    loss_T: Tensor
    shared_T: Tensor


class Balancer(nn.Module):
    """A rule that gives each step its weights. The shared part of a model is all that lies before the towers.

    Every rank calls it with the same numbers and so gets the same weights. What it remembers is in its buffers, which
    are part of the checkpoint; what is random in it is a function of the step.
    """

    needs_gradients: ClassVar[bool] = False
    """`weights` wants the products of the tasks' gradients; each costs a backward pass through the body."""
    needs_losses_after: ClassVar[bool] = False
    """`observe` wants the losses of the same rows after the step; that costs a forward pass."""
    cancels_task_weights: ClassVar[bool] = False
    """A constant factor on a task's loss has no lasting effect, so configured task weights would be ignored."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.num_tasks = len(tasks)

    def weights(self, loss_T: Tensor, gram_TT: Tensor | None, step: int) -> Weights:
        """The weights of a step, counted from 0, in float32 on the device of `loss_T`.

        `loss_T` is each task's mean loss over the global batch, NaN where the batch has no row of the task.
        `gram_TT` holds the inner products of the tasks' gradients on the shared part, in float64, and is None for a
        balancer that does not need it; a task without a row has a zero row and column.
        """
        raise NotImplementedError

    def observe(self, loss_T: Tensor) -> None:
        """Takes the losses of the same rows after the step's update, where `needs_losses_after`."""

    def equal_weights(self, like: Tensor) -> Tensor:
        """One for each task: [T]."""
        return torch.ones(self.num_tasks, device=like.device)
