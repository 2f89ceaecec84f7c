"""Single-task (the baseline of Ma et al., KDD 2018): tables and a network for each task; nothing is shared."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from models.inputs import Inputs
from models.layers import ExpertBank
from models.tasks import Task


class SingleTask(nn.Module):
    """[B, T, I] -> [B, T, H]: one network per task on its own embeddings, H = widths[-1]."""

    tables: ClassVar[str] = "per_task"

    def __init__(self, inputs: Inputs, tasks: Sequence[Task], *, widths: tuple[int, ...] = (128, 64)) -> None:
        super().__init__()
        self.networks = ExpertBank(inputs.width, 1, widths, num_groups=len(tasks))
        self.output_width = widths[-1]

    def forward(self, x_BTI: Tensor) -> Tensor:
        z_BTH: Tensor = self.networks(x_BTI.transpose(0, 1))
        return z_BTH
