"""RLW, random loss weighting (Lin et al., TMLR 2022): new random weights in every step, a baseline hard to beat."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.balancers.balancer import Balancer, Weights
from models.tasks import Task


class RandomWeights(Balancer):
    """T softmax(z) with z from a standard normal distribution, drawn anew from the seed and the step."""

    def __init__(self, tasks: Sequence[Task], *, seed: int = 0) -> None:
        super().__init__(tasks)
        if not 0 <= seed < 1 << 31:
            raise ValueError(f"seed {seed} must be from 0 to 2147483647")
        self.seed = seed

    def weights(self, loss_T: Tensor, gram_TT: Tensor | None, step: int) -> Weights:
        # The generator looks at 32 bits only: a large odd factor keeps seeds and steps apart in them.
        generator = torch.Generator().manual_seed((self.seed * 0x9E3779B1 + step) % (1 << 32))
        z_T = torch.randn(self.num_tasks, generator=generator).to(loss_T.device)
        return Weights(self.num_tasks * torch.softmax(z_T, dim=0), self.equal_weights(loss_T))
