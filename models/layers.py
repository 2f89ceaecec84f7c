"""The building blocks of bodies and towers: every group of equal networks is one batched matrix product.

The activation is SiLU: it has no kink, so rounding stays rounding. See infra/docs/decisions.md.

Shapes: B rows, I input width, E experts, T tasks, N networks of a bank, H hidden width.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import silu


def _uniform(*shape: int, fan_in: int, gain: float) -> nn.Parameter:
    bound = gain * math.sqrt(3.0 / fan_in)
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


class MLP(nn.Sequential):
    """Linear and SiLU per width: [B, I] -> [B, widths[-1]]."""

    def __init__(self, input_width: int, widths: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        for width in widths:
            linear = nn.Linear(input_width, width)
            nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu")
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.SiLU()]
            input_width = width
        super().__init__(*layers)


class BatchedLinear(nn.Module):
    """N linear layers side by side, one product for all: [N, B, I] -> [N, B, H]."""

    def __init__(self, num_networks: int, input_width: int, output_width: int, gain: float = math.sqrt(2.0)) -> None:
        super().__init__()
        self.weight_NIH = _uniform(num_networks, input_width, output_width, fan_in=input_width, gain=gain)
        self.bias_N1H = nn.Parameter(torch.zeros(num_networks, 1, output_width))

    def forward(self, x_NBI: Tensor) -> Tensor:
        return torch.baddbmm(self.bias_N1H, x_NBI, self.weight_NIH)


class ExpertBank(nn.Module):
    """All experts that read the same input: [B, I] -> [B, E, H] with H = widths[-1].

    The first layer of all experts is one plain product [B, I] x [I, E * H1]; each later layer is one batched product.
    """

    def __init__(self, input_width: int, num_experts: int, widths: Sequence[int]) -> None:
        super().__init__()
        if num_experts < 1 or not widths:
            raise ValueError("an expert bank needs at least one expert and one layer")
        self.num_experts = num_experts
        self.output_width = widths[-1]
        self.first_weight_IN = _uniform(input_width, num_experts * widths[0], fan_in=input_width, gain=math.sqrt(2.0))
        self.first_bias_N = nn.Parameter(torch.zeros(num_experts * widths[0]))
        self.later = nn.ModuleList(BatchedLinear(num_experts, before, after) for before, after in pairwise(widths))

    def forward(self, x_BI: Tensor) -> Tensor:
        h_BN = silu(torch.addmm(self.first_bias_N, x_BI, self.first_weight_IN))
        h_EBH = h_BN.view(x_BI.shape[0], self.num_experts, -1).transpose(0, 1)
        for layer in self.later:
            h_EBH = silu(layer(h_EBH))
        h_BEH: Tensor = h_EBH.transpose(0, 1)
        return h_BEH


class SoftmaxGates(nn.Module):
    """One softmax over the experts for each task, all gates in one product: [B, I] -> [B, T, E]."""

    def __init__(self, input_width: int, num_tasks: int, num_experts: int) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.linear = nn.Linear(input_width, num_tasks * num_experts, bias=False)
        nn.init.xavier_uniform_(self.linear.weight)

    def forward(self, x_BI: Tensor) -> Tensor:
        logit_BTE: Tensor = self.linear(x_BI).view(x_BI.shape[0], self.num_tasks, -1)
        return logit_BTE.softmax(dim=-1)


class Towers(nn.Module):
    """One small MLP per task ending in one output, all tasks in one batched product a layer: [B, T, H] -> [B, T]."""

    def __init__(self, num_tasks: int, input_width: int, widths: Sequence[int]) -> None:
        super().__init__()
        sizes = [input_width, *widths]
        self.hidden = nn.ModuleList(BatchedLinear(num_tasks, before, after) for before, after in pairwise(sizes))
        self.output = BatchedLinear(num_tasks, sizes[-1], 1, gain=1.0 / math.sqrt(3.0))

    def forward(self, z_BTH: Tensor) -> Tensor:
        h_TBH = z_BTH.transpose(0, 1)
        for layer in self.hidden:
            h_TBH = silu(layer(h_TBH))
        output_TB: Tensor = self.output(h_TBH).squeeze(-1)
        return output_TB.transpose(0, 1)
