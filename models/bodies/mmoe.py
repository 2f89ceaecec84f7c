"""MMoE, multi-gate mixture of experts (Ma et al., KDD 2018): shared experts, and for each task its own gate."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.inputs import Inputs
from models.layers import ExpertBank, Mixture, SoftmaxGates
from models.products import as_factor, mix_experts
from models.tasks import Task


class MMoE(nn.Module):
    """[B, I] -> [B, T, H]: z_t = sum over e of gate_t(x)_e * expert_e(x), H = widths[-1]."""

    def __init__(
        self, inputs: Inputs, tasks: Sequence[Task], *, num_experts: int = 4, widths: tuple[int, ...] = (64, 32)
    ) -> None:
        super().__init__()
        self.experts = ExpertBank(inputs.width, num_experts, widths)
        self.gate = SoftmaxGates(inputs.width, len(tasks), num_experts)
        self.output_width = widths[-1]

    def forward(self, x_BI: Tensor) -> Tensor:
        z_BTH, _ = self.mix(x_BI)
        return z_BTH

    def mix(self, x_BI: Tensor) -> tuple[Tensor, dict[str, Mixture]]:
        """What `forward` gives, and what it is made of: the experts and each task's gate."""
        x_1BI = as_factor(x_BI).unsqueeze(0)
        weight_BTE, expert_BEH = self.gate(x_1BI), self.experts(x_1BI)
        names = tuple(f"expert {place}" for place in range(weight_BTE.shape[2]))
        seen_TE = weight_BTE.new_ones(weight_BTE.shape[1:], dtype=torch.bool)
        return mix_experts(weight_BTE, expert_BEH), {"experts": Mixture(names, expert_BEH, weight_BTE, seen_TE)}
