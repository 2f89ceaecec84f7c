"""AITM, adaptive information transfer (Xi et al., KDD 2021): each task attends to what the task before it learnt."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.inputs import Inputs
from models.layers import MLP, ExpertBank
from models.tasks import Task


class AITM(nn.Module):
    """[B, I] -> [B, T, H]: a task mixes its own network with what its predecessor hands on, H = widths[-1].

    The predecessor is the task that its space names, or else the task before it. The paper's penalty on a later task
    that is likelier than an earlier one is not needed: spaces make P(later) a product, which never is.
    """

    def __init__(self, inputs: Inputs, tasks: Sequence[Task], *, widths: tuple[int, ...] = (64, 32)) -> None:
        super().__init__()
        places = {task.name: place for place, task in enumerate(tasks)}
        self.predecessors = [
            place - 1 if task.space is None else places[task.space] for place, task in enumerate(tasks) if place
        ]
        self.networks = ExpertBank(inputs.width, len(tasks), widths)
        self.output_width = widths[-1]
        self.handed_on = nn.ModuleList(MLP(widths[-1], (widths[-1],)) for _ in self.predecessors)
        self.transfers = nn.ModuleList(_Transfer(widths[-1]) for _ in self.predecessors)

    def forward(self, x_BI: Tensor) -> Tensor:
        first_BH, *own = self.networks(x_BI.unsqueeze(0)).unbind(dim=1)
        z = [first_BH]
        for own_BH, place, hand_on, transfer in zip(
            own, self.predecessors, self.handed_on, self.transfers, strict=True
        ):
            z.append(transfer(torch.stack([hand_on(z[place]), own_BH], dim=1)))
        return torch.stack(z, dim=1)


class _Transfer(nn.Module):
    """Attention over two sources, [B, 2, H] -> [B, H]: values weighted by the softmax of <key, query> / sqrt(H)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value, self.key, self.query = (nn.Linear(width, width) for _ in range(3))

    def forward(self, u_B2H: Tensor) -> Tensor:
        score_B2 = (self.key(u_B2H) * self.query(u_B2H)).sum(dim=2) / math.sqrt(u_B2H.shape[2])
        mixed_BH: Tensor = (score_B2.softmax(dim=1).unsqueeze(2) * self.value(u_B2H)).sum(dim=1)
        return mixed_BH
