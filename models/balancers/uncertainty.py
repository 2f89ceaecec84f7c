"""Uncertainty weighting (Kendall et al., CVPR 2018): each task's weight is learnt as the inverse of its noise."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from models.balancers.balancer import Balancer, Weights
from models.tasks import Task

# A loss of exactly 0 would let its weight grow without end.
MAX_LOG_VARIANCE = 10.0


class UncertaintyWeights(Balancer):
    """Minimises sum exp(-s) loss + s / 2 over the log-variances s by a gradient step of its own in each step."""

    cancels_task_weights: ClassVar[bool] = True

    def __init__(self, tasks: Sequence[Task], *, learning_rate: float = 0.025) -> None:
        super().__init__(tasks)
        if not 0 < learning_rate < math.inf:
            raise ValueError(f"learning_rate {learning_rate} must be finite and above 0")
        self.learning_rate = learning_rate
        self.log_variance_T: Tensor
        self.register_buffer("log_variance_T", torch.zeros(len(tasks)))

    def weights(self, loss_T: Tensor, gram_TT: Tensor | None, step: int) -> Weights:
        weight_T = torch.exp(-self.log_variance_T)
        slope_T = 0.5 - weight_T * loss_T
        self.log_variance_T -= self.learning_rate * torch.where(loss_T.isnan(), 0.0, slope_T)
        self.log_variance_T.clamp_(-MAX_LOG_VARIANCE, MAX_LOG_VARIANCE)
        return Weights(weight_T, self.equal_weights(loss_T))
