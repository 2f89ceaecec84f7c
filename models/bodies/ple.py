"""PLE, progressive layered extraction (Tang et al., RecSys 2020): levels of task and shared experts, one on another."""

from collections.abc import Sequence

from torch import Tensor, nn

from models.bodies.cgc import ExtractionLevel
from models.inputs import Inputs
from models.layers import Mixture, check_widths
from models.products import as_factor
from models.tasks import Task


class PLE(nn.Module):
    """[B, I] -> [B, T, H]: each level mixes what the one below gave each task and the shared part, H = levels[-1][-1].

    `levels` holds the widths of the experts of each level.
    """

    def __init__(
        self,
        inputs: Inputs,
        tasks: Sequence[Task],
        *,
        num_shared_experts: int = 2,
        num_task_experts: int = 2,
        levels: tuple[tuple[int, ...], ...] = ((64,), (32,)),
    ) -> None:
        super().__init__()
        if not levels:
            raise ValueError("levels are empty, and there must be at least one")
        names = [task.name for task in tasks]
        stack, width = [], inputs.width
        for place, widths in enumerate(levels):
            stack.append(
                ExtractionLevel(
                    width,
                    names,
                    num_shared_experts,
                    num_task_experts,
                    check_widths(widths),
                    is_first=place == 0,
                    is_last=place == len(levels) - 1,
                )
            )
            width = widths[-1]
        self.levels = nn.ModuleList(stack)
        self.output_width = width

    def forward(self, x_BI: Tensor) -> Tensor:
        z_BTH, _ = self.mix(x_BI)
        return z_BTH

    def mix(self, x_BI: Tensor) -> tuple[Tensor, dict[str, Mixture]]:
        """What `forward` gives, and what it is made of: each level's experts and the tasks' gates."""
        z_GBI, found = as_factor(x_BI).unsqueeze(0), {}
        for number, level in enumerate(self.levels, start=1):
            z_BGI, found[f"level {number}"] = level(z_GBI)
            z_GBI = z_BGI.transpose(0, 1).contiguous()
        return z_GBI.transpose(0, 1), found
