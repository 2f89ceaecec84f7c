"""DCN-v2's low-rank cross network (Wang et al., WWW 2021): products of the inputs, one degree more with each layer."""

from torch import Tensor, nn
from torchrec.modules.crossnet import LowRankCrossNet

from models.inputs import Inputs


class LowRankCross(nn.Module):
    """[..., I] -> [..., I]: x' = x0 * (W (V x) + b) + x per layer; stacked before the body."""

    def __init__(self, inputs: Inputs, *, num_layers: int = 2, rank: int = 32) -> None:
        super().__init__()
        if min(num_layers, rank) < 1:
            raise ValueError(f"num_layers {num_layers} and rank {rank} must be at least 1")
        self.cross = LowRankCrossNet(inputs.width, num_layers, rank)
        self.outputs = inputs

    def forward(self, x_BI: Tensor) -> Tensor:
        crossed_BI: Tensor = self.cross(x_BI)
        return crossed_BI
