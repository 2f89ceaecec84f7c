"""One training or scoring batch, as TorchRec's pipelines expect it.

Shapes: B rows, D numeric inputs, F sparse features, T tasks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor
from torchrec.streamable import Pipelineable


@dataclass
class Batch(Pipelineable):  # type: ignore[misc]
    """`dense` [B, D]; `sparse` with F keys and stride B; `labels` [B, T], NaN where null; `weights` [B], 0 = padding.

    The ids of `sparse` have weights of their own if any feature is weighted.
    `position` is the (epoch, step) at which the reader goes on after this batch.
    """

    dense: Tensor
    sparse: KeyedJaggedTensor
    labels: Tensor
    weights: Tensor
    position: tuple[int, int] = (0, 0)

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        return Batch(
            self.dense.to(device, non_blocking=non_blocking),
            self.sparse.to(device, non_blocking=non_blocking),
            self.labels.to(device, non_blocking=non_blocking),
            self.weights.to(device, non_blocking=non_blocking),
            self.position,
        )

    def pin_memory(self) -> "Batch":
        return Batch(
            self.dense.pin_memory(),
            self.sparse.pin_memory(),
            self.labels.pin_memory(),
            self.weights.pin_memory(),
            self.position,
        )

    def record_stream(self, stream: torch.Stream) -> None:
        for part in (self.dense, self.sparse, self.labels, self.weights):
            part.record_stream(stream)
