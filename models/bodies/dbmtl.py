"""DBMTL, deep Bayesian multi-target learning (Wang et al., arXiv 1902.09154, 2019): p(y1) p(y2 | y1) and so on."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.inputs import Inputs
from models.layers import MLP, ExpertBank
from models.tasks import Task


class DBMTL(nn.Module):
    """[B, I] -> [B, T, H]: a task reads its own network and those of all tasks before it, H = relation_widths[-1]."""

    def __init__(
        self,
        inputs: Inputs,
        tasks: Sequence[Task],
        *,
        widths: tuple[int, ...] = (64,),
        task_widths: tuple[int, ...] = (32,),
        relation_widths: tuple[int, ...] = (32,),
    ) -> None:
        super().__init__()
        self.bottom = MLP(inputs.width, widths)
        self.networks = ExpertBank(widths[-1], len(tasks), task_widths)
        self.relations = nn.ModuleList(
            MLP((place + 1) * task_widths[-1], relation_widths) for place in range(len(tasks))
        )
        self.output_width = relation_widths[-1]

    def forward(self, x_BI: Tensor) -> Tensor:
        h_BTH = self.networks(self.bottom(x_BI).unsqueeze(0))
        return torch.stack(
            [relation(h_BTH[:, : place + 1].flatten(1)) for place, relation in enumerate(self.relations)], dim=1
        )
