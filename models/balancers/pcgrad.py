"""PCGrad (Yu et al., NeurIPS 2020): each task's gradient, projected on the normal plane of those it conflicts with."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.balancers.balancer import Balancer, Weights


class PCGrad(Balancer):
    """The sum of the projected gradients is one of the plain ones, with weights that follow from their products."""

    needs_gradients = True

    def weights(self, loss_T: Tensor, gram_TT: Tensor | None, step: int) -> Weights:
        assert gram_TT is not None
        gram = gram_TT.cpu()
        # Row i holds task i's projected gradient as a sum of plain ones.
        parts_TT = torch.eye(self.num_tasks, dtype=torch.float64)
        for task, others in enumerate(projection_order(self.num_tasks, step)):
            for other in others:
                product = parts_TT[task] @ gram[:, other]
                if product < 0:
                    parts_TT[task, other] -= product / gram[other, other]
        return Weights(self.equal_weights(loss_T), parts_TT.sum(dim=0).to(loss_T))


def projection_order(num_tasks: int, step: int) -> Sequence[Sequence[int]]:
    """For each task the other tasks in the order in which its gradient is projected: random, and fixed by the step."""
    generator = torch.Generator().manual_seed(step)
    orders = (torch.randperm(num_tasks, generator=generator).tolist() for _ in range(num_tasks))
    return [[other for other in order if other != task] for task, order in enumerate(orders)]
