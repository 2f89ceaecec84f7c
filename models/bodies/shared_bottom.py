"""Shared-Bottom (Caruana, Machine Learning 28, 1997): one network for all tasks, then a tower each."""

from collections.abc import Sequence

from torch import Tensor, nn

from models.inputs import Inputs
from models.layers import MLP
from models.tasks import Task


class SharedBottom(nn.Module):
    """[B, I] -> [B, T, H]: the same representation for every task, H = widths[-1]."""

    def __init__(self, inputs: Inputs, tasks: Sequence[Task], *, widths: tuple[int, ...] = (128, 64)) -> None:
        super().__init__()
        self.num_tasks = len(tasks)
        self.bottom = MLP(inputs.width, widths)
        self.output_width = widths[-1]

    def forward(self, x_BI: Tensor) -> Tensor:
        h_BH: Tensor = self.bottom(x_BI)
        return h_BH.unsqueeze(1).expand(-1, self.num_tasks, -1)
