"""DCN-v2's low-rank cross network (Wang et al., WWW 2021): products of the inputs, one degree more with each layer."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from models.inputs import Inputs


class LowRankCross(nn.Module):
    """[..., I] -> [..., I]: x' = x0 * (W (V x) + b) + x per layer; stacked before the body."""

    def __init__(self, inputs: Inputs, *, num_layers: int = 2, rank: int = 32) -> None:
        super().__init__()
        if min(num_layers, rank) < 1:
            raise ValueError(f"num_layers {num_layers} and rank {rank} must be at least 1")
        self.cross = _LowRankCrossNet(inputs.width, num_layers, rank)
        self.outputs = inputs

    def forward(self, x_BI: Tensor) -> Tensor:
        crossed_BI: Tensor = self.cross(x_BI)
        return crossed_BI


class _LowRankCrossNet(nn.Module):
    """The same as torchrec's, in names, first values and results; a model that serves has no torchrec."""

    def __init__(self, width: int, num_layers: int, rank: int) -> None:
        super().__init__()
        self.W_kernels = nn.ParameterList(nn.init.xavier_normal_(torch.empty(width, rank)) for _ in range(num_layers))
        self.V_kernels = nn.ParameterList(nn.init.xavier_normal_(torch.empty(rank, width)) for _ in range(num_layers))
        self.bias = nn.ParameterList(torch.zeros(width) for _ in range(num_layers))

    def forward(self, x_BI: Tensor) -> Tensor:
        crossed_BI = x_BI
        for w_IR, v_RI, bias_I in zip(self.W_kernels, self.V_kernels, self.bias, strict=True):
            crossed_BI = x_BI * (linear(linear(crossed_BI, v_RI), w_IR) + bias_I) + crossed_BI
        return crossed_BI
