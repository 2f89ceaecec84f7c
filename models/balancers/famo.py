"""FAMO, fast adaptive multitask optimization (Liu et al., NeurIPS 2023): all tasks improve at one rate."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from models.balancers.balancer import Balancer, Weights
from models.tasks import Task

MIN_LOSS = 1e-8


class FAMO(Balancer):
    """Weights T c z / loss with z the softmax of learnt logits and c = 1 / sum(z / loss).

    The logits fall for tasks whose log loss just fell more than the others'. Equal losses start with weights of 1.
    """

    needs_losses_after: ClassVar[bool] = True
    cancels_task_weights: ClassVar[bool] = True

    def __init__(self, tasks: Sequence[Task], *, learning_rate: float = 0.025, decay: float = 0.001) -> None:
        super().__init__(tasks)
        if learning_rate <= 0 or decay < 0:
            raise ValueError(f"learning_rate {learning_rate} must be above 0 and decay {decay} at least 0")
        self.learning_rate = learning_rate
        self.decay = decay
        self.logit_T: Tensor
        self.loss_T: Tensor
        self.register_buffer("logit_T", torch.zeros(len(tasks)))
        # The losses before the step, or the last known ones.
        self.register_buffer("loss_T", torch.ones(len(tasks)))

    def weights(self, loss_T: Tensor, gram_TT: Tensor | None, step: int) -> Weights:
        self.loss_T.copy_(torch.where(loss_T.isnan(), self.loss_T, loss_T).clamp_min(MIN_LOSS))
        share_T = torch.softmax(self.logit_T, dim=0) / self.loss_T
        return Weights(self.num_tasks * share_T / share_T.sum(), self.equal_weights(loss_T))

    def observe(self, loss_T: Tensor) -> None:
        fall_T = self.loss_T.log() - loss_T.clamp_min(MIN_LOSS).log()
        fall_T = fall_T.nan_to_num(nan=0.0)
        z_T = torch.softmax(self.logit_T, dim=0)
        slope_T = z_T * (fall_T - (z_T * fall_T).sum())
        self.logit_T -= self.learning_rate * (slope_T + self.decay * self.logit_T)
