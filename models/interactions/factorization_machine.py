"""The second-order part of a factorization machine (Rendle, ICDM 2010), kept as a vector (He and Chua, SIGIR 2017)."""

import torch
from torch import Tensor, nn

from models.inputs import DENSE_PART, Inputs


class FactorizationMachine(nn.Module):
    """[..., I] -> [..., I + K]: the inputs and, after them, the sum over pairs of features of v_i * v_j, K wide.

    Its sum over K is the machine's second-order term. It is taken as ((sum v)^2 - sum v^2) / 2 over sparse features.
    """

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        features = {name: width for name, width in inputs.widths.items() if name != DENSE_PART}
        if len(features) < 2 or len(set(features.values())) > 1:
            raise ValueError(f"it needs two sparse features or more of one embedding width, not {features}")
        self.num_features = len(features)
        self.width = sum(features.values())
        self.outputs = Inputs(dict(inputs.widths) | {"(pairs)": self.width // self.num_features}, inputs.num_groups)

    def forward(self, x_BI: Tensor) -> Tensor:
        v_BFK = x_BI[..., : self.width].reshape(*x_BI.shape[:-1], self.num_features, -1)
        pairs_BK = 0.5 * (v_BFK.sum(dim=-2).square() - v_BFK.square().sum(dim=-2))
        return torch.cat([x_BI, pairs_BK], dim=-1)
