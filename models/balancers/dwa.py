"""DWA, dynamic weight average (Liu et al., CVPR 2019): tasks whose losses fall more slowly weigh more."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from models.balancers.balancer import Balancer, Weights
from models.tasks import Task


class DynamicWeightAverage(Balancer):
    """T softmax(r / temperature), with r the mean loss of the last window of steps over that of the window before.

    The paper's window is an epoch. Weights are 1 until two windows are complete.
    """

    def __init__(self, tasks: Sequence[Task], *, temperature: float = 2.0, window_steps: int = 100) -> None:
        super().__init__(tasks)
        if not 0 < temperature < math.inf or window_steps < 1:
            raise ValueError(
                f"temperature {temperature} must be finite and above 0, window_steps {window_steps} at least 1"
            )
        self.temperature = temperature
        self.window_steps = window_steps
        self.sums_2T: Tensor
        self.means_2T: Tensor
        # Sum and number of this window's losses; means of the window before the last and of the last, NaN if unknown.
        self.register_buffer("sums_2T", torch.zeros(2, len(tasks)))
        self.register_buffer("means_2T", torch.full((2, len(tasks)), torch.nan))

    def weights(self, loss_T: Tensor, gram_TT: Tensor | None, step: int) -> Weights:
        ratio_T = (self.means_2T[1] / self.means_2T[0]).nan_to_num(nan=1.0, posinf=1.0)
        weight_T = self.num_tasks * torch.softmax(ratio_T / self.temperature, dim=0)
        self.sums_2T += torch.stack([loss_T.nan_to_num(nan=0.0), (~loss_T.isnan()).float()])
        if (step + 1) % self.window_steps == 0:
            self.means_2T.copy_(torch.stack([self.means_2T[1], self.sums_2T[0] / self.sums_2T[1]]))
            self.sums_2T.zero_()
        return Weights(weight_T, self.equal_weights(loss_T))
