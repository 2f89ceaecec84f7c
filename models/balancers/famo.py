"""FAMO, fast adaptive multitask optimization (Liu et al., NeurIPS 2023): all tasks improve at one rate."""

import math
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
        if not 0 < learning_rate < math.inf or not 0 <= decay < math.inf:
            raise ValueError(
                f"learning_rate {learning_rate} must be finite and above 0, decay {decay} finite and at least 0"
            )
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
        is_present_T = ~loss_T.isnan()
        fall_T = torch.where(is_present_T, self.loss_T.log() - loss_T.clamp_min(MIN_LOSS).log(), 0.0)
        # A task without a row keeps its logit: it counts as one that fell as much as the others did on average.
        z_T = torch.softmax(self.logit_T, dim=0) * is_present_T
        mean_fall = (z_T * fall_T).sum() / z_T.sum().clamp_min(1e-30)
        slope_T = z_T * (fall_T - mean_fall) + self.decay * self.logit_T * is_present_T
        self.logit_T -= self.learning_rate * slope_T
