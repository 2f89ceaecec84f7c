"""Target attention (DIN, Zhou et al., KDD 2018): how much of each item of a history counts, given the candidate item.

Shapes: B rows, K embedding width, N items of all histories one after the other.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers import MLP


class TargetAttention(nn.Module):
    """([N, K], lengths [B], target [B, K]) -> [B, K]: the sum of each history's items, weighted by the activation unit.

    As in the paper the weights are not normalised, so that a long history of the same kind counts more than a short
    one. An empty history gives zeros.
    """

    def __init__(self, embedding_dim: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.hidden = MLP(4 * embedding_dim, widths)
        self.output = nn.Linear(widths[-1], 1)

    def forward(self, history_NK: Tensor, lengths_B: Tensor, target_BK: Tensor) -> Tensor:
        target_NK = target_BK.repeat_interleave(lengths_B, dim=0, output_size=history_NK.shape[0])
        pair_NK = torch.cat([history_NK, target_NK, history_NK - target_NK, history_NK * target_NK], dim=1)
        weight_N1 = self.output(self.hidden(pair_NK))
        return sum_segments(weight_N1 * history_NK, lengths_B)


def sum_segments(values_NK: Tensor, lengths_B: Tensor) -> Tensor:
    """The sum of each row's values, zeros for a row without any: [B, K]. Deterministic on every device."""
    return torch.segment_reduce(values_NK, "sum", lengths=lengths_B.long(), axis=0)
