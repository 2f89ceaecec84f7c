"""Cross-stitch networks (Misra et al., CVPR 2016): a network per task, mixed with the others after each layer."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.inputs import Inputs
from models.layers import BatchedLinear, ExpertBank, silu
from models.tasks import Task

# The paper's starting point: a task keeps most of its own.
OWN_SHARE = 0.9


class CrossStitch(nn.Module):
    """[B, I] -> [B, T, H]: T networks with a T x T matrix of mixing weights after each layer, H = widths[-1]."""

    def __init__(self, inputs: Inputs, tasks: Sequence[Task], *, widths: tuple[int, ...] = (64, 32)) -> None:
        super().__init__()
        num_tasks = len(tasks)
        self.first = ExpertBank(inputs.width, num_tasks, widths[:1])
        self.later = nn.ModuleList(BatchedLinear(num_tasks, before, after) for before, after in pairwise(widths))
        others = (1.0 - OWN_SHARE) / max(1, num_tasks - 1)
        stitch_TT = torch.full((num_tasks, num_tasks), others).fill_diagonal_(OWN_SHARE if num_tasks > 1 else 1.0)
        self.stitch_LTT = nn.Parameter(stitch_TT.repeat(len(widths), 1, 1))
        self.output_width = widths[-1]

    def forward(self, x_BI: Tensor) -> Tensor:
        h_BTH: Tensor = self.stitch_LTT[0] @ self.first(x_BI.unsqueeze(0))
        for layer, stitch_TT in zip(self.later, self.stitch_LTT[1:], strict=True):
            h_BTH = stitch_TT @ silu(layer(h_BTH.transpose(0, 1))).transpose(0, 1)
        return h_BTH
