"""Embedding tables that only serve: plain torch, in float32 or smaller.

Shapes: R rows, K embedding width, B rows of a batch, N ids of all of them one after the other.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

TableType = Literal["float32", "bfloat16", "int8"]
LARGEST_CODE = 255


class ServingTable(nn.Module):
    """[R, K] values; what is looked up is float32.

    An int8 table has a scale and an offset per row, as fbgemm's row-wise quantised ones: value = scale * code + offset.
    """

    def __init__(self, num_rows: int, width: int, kind: TableType) -> None:
        super().__init__()
        self.is_coded = kind == "int8"
        self.weight: Tensor
        self.scale_offset_R2: Tensor
        type_ = torch.uint8 if self.is_coded else getattr(torch, kind)
        self.register_buffer("weight", torch.empty(num_rows, width, dtype=type_))
        if self.is_coded:
            self.register_buffer("scale_offset_R2", torch.empty(num_rows, 2))

    def fill(self, value_RK: Tensor) -> None:
        """Takes the values of a trained table; what they lose is in `rows`."""
        if not self.is_coded:
            self.weight.copy_(value_RK)
            return
        offset_R1, largest_R1 = value_RK.amin(dim=1, keepdim=True), value_RK.amax(dim=1, keepdim=True)
        scale_R1 = (largest_R1 - offset_R1) / LARGEST_CODE
        # A row of one value has scale 0, and is its offset.
        code_RK = ((value_RK - offset_R1) / torch.where(scale_R1 > 0, scale_R1, 1.0)).round()
        self.weight.copy_(code_RK)
        self.scale_offset_R2.copy_(torch.cat([scale_R1, offset_R1], dim=1))

    def rows(self, ids_N: Tensor) -> Tensor:
        """[N, K]."""
        row_NK = self.weight.index_select(0, ids_N).float()
        if not self.is_coded:
            return row_NK
        scale_offset_N2 = self.scale_offset_R2.index_select(0, ids_N)
        return torch.addcmul(scale_offset_N2[:, 1:], row_NK, scale_offset_N2[:, :1])

    def sums(self, ids_N: Tensor, lengths_B: Tensor, weights_N: Tensor | None) -> Tensor:
        """The sum of each row's values, times their weights if there are any: [B, K]."""
        offsets_B = lengths_B.cumsum(0) - lengths_B
        if self.weight.dtype == torch.float32:
            return embedding_bag(ids_N, self.weight, offsets_B, mode="sum", per_sample_weights=weights_N)
        places_N = torch.arange(ids_N.shape[0], device=ids_N.device)
        return embedding_bag(places_N, self.rows(ids_N), offsets_B, mode="sum", per_sample_weights=weights_N)
