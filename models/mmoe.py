"""MMoE, multi-gate mixture of experts (Ma et al., KDD 2018): shared experts, and for each task its own gate."""

import torch
from torch import Tensor, nn

from models.layers import ExpertBank, SoftmaxGates


class MMoE(nn.Module):
    """[B, I] -> [B, T, H]: z_t = sum over e of gate_t(x)_e * expert_e(x), H = widths[-1]."""

    def __init__(
        self, input_width: int, num_tasks: int, *, num_experts: int = 4, widths: tuple[int, ...] = (64, 32)
    ) -> None:
        super().__init__()
        self.experts = ExpertBank(input_width, num_experts, widths)
        self.gate = SoftmaxGates(input_width, num_tasks, num_experts)
        self.output_width = self.experts.output_width

    def forward(self, x_BI: Tensor) -> Tensor:
        return torch.bmm(self.gate(x_BI), self.experts(x_BI))

    def gates(self, x_BI: Tensor) -> dict[str, Tensor]:
        """The weight of each expert for each task and row, by the name of the gate: [B, T, E]."""
        return {"experts": self.gate(x_BI)}
