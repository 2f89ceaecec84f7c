"""Shared-Bottom (Caruana, Machine Learning 28, 1997): one network for all tasks, then a tower each."""

from torch import Tensor, nn

from models.layers import MLP


class SharedBottom(nn.Module):
    """[B, I] -> [B, T, H]: the same representation for every task, H = widths[-1]."""

    def __init__(self, input_width: int, num_tasks: int, *, widths: tuple[int, ...] = (128, 64)) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.output_width = widths[-1]
        self.bottom = MLP(input_width, widths)

    def forward(self, x_BI: Tensor) -> Tensor:
        h_BH: Tensor = self.bottom(x_BI)
        return h_BH.unsqueeze(1).expand(-1, self.num_tasks, -1)
