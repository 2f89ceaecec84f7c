"""MetaBalance (He et al., WWW 2022): auxiliary gradients are brought near the size of the target task's."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from models.balancers.balancer import Balancer, Weights
from models.tasks import Task


class MetaBalance(Balancer):
    """Multiplies a task's gradient on the shared part by relax * m_target / m_task + 1 - relax.

    m are moving averages of the norms, which start at the first norm seen. The paper does this for each parameter by
    itself; here it is one factor for the whole shared part. The target is the first task unless it is named.
    """

    needs_gradients: ClassVar[bool] = True

    def __init__(self, tasks: Sequence[Task], *, target: str = "", relax: float = 0.7, beta: float = 0.9) -> None:
        super().__init__(tasks)
        names = [task.name for task in tasks]
        if target and target not in names:
            raise ValueError(f"target {target!r} is not a task; the tasks are {', '.join(names)}")
        if not 0 <= relax <= 1 or not 0 <= beta < 1:
            raise ValueError(f"relax {relax} must be from 0 to 1 and beta {beta} from 0 to below 1")
        self.target = names.index(target) if target else 0
        self.relax = relax
        self.beta = beta
        self.norm_T: Tensor
        self.register_buffer("norm_T", torch.zeros(len(tasks)))

    def weights(self, loss_T: Tensor, gram_TT: Tensor | None, step: int) -> Weights:
        assert gram_TT is not None
        norm_T = gram_TT.diagonal().clamp(min=0.0).sqrt().float()
        averaged_T = torch.where(self.norm_T > 0, self.beta * self.norm_T + (1 - self.beta) * norm_T, norm_T)
        self.norm_T.copy_(torch.where(norm_T > 0, averaged_T, self.norm_T))
        target = self.norm_T[self.target]
        ratio_T = torch.where((self.norm_T > 0) & (target > 0), target / self.norm_T.clamp_min(1e-30), 1.0)
        return Weights(self.equal_weights(loss_T), self.relax * ratio_T + 1.0 - self.relax)
