"""GradNorm (Chen et al., ICML 2018): weights under which tasks that learn more slowly have larger gradients."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from models.balancers.balancer import Balancer, Weights
from models.tasks import Task

MIN_WEIGHT = 1e-3


class GradNorm(Balancer):
    """Moves the norm of each weighted gradient towards mean norm * (loss over first loss, over its mean)^alpha.

    Each step makes one gradient step on the sum of the distances. The paper takes the norms at the last shared layer;
    here they are those of the whole shared part.
    """

    needs_gradients: ClassVar[bool] = True
    cancels_task_weights: ClassVar[bool] = True

    def __init__(self, tasks: Sequence[Task], *, alpha: float = 1.5, learning_rate: float = 0.025) -> None:
        super().__init__(tasks)
        if not 0 <= alpha < math.inf or not 0 < learning_rate < math.inf:
            raise ValueError(
                f"alpha {alpha} must be finite and at least 0, learning_rate {learning_rate} finite and above 0"
            )
        self.alpha = alpha
        self.learning_rate = learning_rate
        self.weight_T: Tensor
        self.first_loss_T: Tensor
        self.register_buffer("weight_T", torch.ones(len(tasks)))
        self.register_buffer("first_loss_T", torch.full((len(tasks),), torch.nan))

    def weights(self, loss_T: Tensor, gram_TT: Tensor | None, step: int) -> Weights:
        assert gram_TT is not None
        self.first_loss_T.copy_(torch.where(self.first_loss_T.isnan(), loss_T, self.first_loss_T))
        norm_T = gram_TT.diagonal().clamp(min=0.0).sqrt().float()
        is_present_T = norm_T > 0
        used_T = self.weight_T.clone()
        if is_present_T.any():
            ratio_T = (loss_T / self.first_loss_T.clamp_min(1e-12)).nan_to_num(nan=0.0)
            rate_T = ratio_T / ratio_T[is_present_T].mean().clamp_min(1e-12)
            target_T = (used_T * norm_T)[is_present_T].mean() * rate_T**self.alpha
            # An absent task has no norm, and so no slope.
            slope_T = torch.sign(used_T * norm_T - target_T) * norm_T
            moved_T = (used_T - self.learning_rate * slope_T).clamp_min(MIN_WEIGHT)
            self.weight_T.copy_(self.num_tasks * moved_T / moved_T.sum())
        return Weights(used_T, self.equal_weights(loss_T))
