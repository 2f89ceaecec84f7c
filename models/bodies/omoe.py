"""OMoE, one-gate mixture of experts (Jacobs et al., Neural Computation 3, 1991; as in Ma et al., KDD 2018)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.inputs import Inputs
from models.layers import ExpertBank, Mixture, SoftmaxGates
from models.products import as_factor, mix_experts
from models.tasks import Task


class OMoE(nn.Module):
    """[B, I] -> [B, T, H]: shared experts under one gate, so the same mixture for every task, H = widths[-1]."""

    def __init__(
        self, inputs: Inputs, tasks: Sequence[Task], *, num_experts: int = 4, widths: tuple[int, ...] = (64, 32)
    ) -> None:
        super().__init__()
        self.num_tasks = len(tasks)
        self.experts = ExpertBank(inputs.width, num_experts, widths)
        self.gate = SoftmaxGates(inputs.width, 1, num_experts)
        self.output_width = widths[-1]

    def forward(self, x_BI: Tensor) -> Tensor:
        z_BTH, _ = self.mix(x_BI)
        return z_BTH

    def mix(self, x_BI: Tensor) -> tuple[Tensor, dict[str, Mixture]]:
        """What `forward` gives, and what it is made of: the experts and the one gate, repeated for each task."""
        x_1BI = as_factor(x_BI).unsqueeze(0)
        weight_B1E, expert_BEH = self.gate(x_1BI), self.experts(x_1BI)
        z_BTH = mix_experts(weight_B1E, expert_BEH).expand(-1, self.num_tasks, -1)
        weight_BTE = weight_B1E.expand(-1, self.num_tasks, -1)
        names = tuple(f"expert {place}" for place in range(weight_BTE.shape[2]))
        seen_TE = weight_BTE.new_ones(weight_BTE.shape[1:], dtype=torch.bool)
        return z_BTH, {"experts": Mixture(names, expert_BEH, weight_BTE, seen_TE)}
