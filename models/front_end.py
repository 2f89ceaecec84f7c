"""The front end: embedding tables and a projection of the numeric inputs, side by side.

Shapes: B rows, D numeric inputs, I width of the result.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, KeyedTensor


class FrontEnd(nn.Module):
    """([B, D], sparse) -> [B, I]: the bag of each feature in the order of `feature_names`, then the dense part."""

    def __init__(
        self,
        tables: Sequence[EmbeddingBagConfig],
        feature_names: Sequence[str],
        num_dense: int,
        dense_width: int,
        device: torch.device,
    ) -> None:
        super().__init__()
        if not tables and not num_dense:
            raise ValueError("a front end needs at least one table or one numeric input")
        self.feature_names = list(feature_names)
        self.embeddings = EmbeddingBagCollection(tables=list(tables), device=device) if tables else None
        self.projection = nn.Sequential(nn.Linear(num_dense, dense_width), nn.SiLU()) if num_dense else None
        widths = {name: table.embedding_dim for table in tables for name in table.feature_names}
        self.output_width = sum(widths[name] for name in feature_names) + (dense_width if num_dense else 0)

    def forward(self, dense: Tensor, sparse: KeyedJaggedTensor) -> Tensor:
        parts: list[Tensor] = []
        if self.embeddings is not None:
            # By key: the order of a sharded collection's own values depends on the sharding plan.
            parts.append(KeyedTensor.regroup([self.embeddings(sparse)], [self.feature_names])[0])
        if self.projection is not None:
            parts.append(self.projection(dense))
        return torch.cat(parts, dim=1)
