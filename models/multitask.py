"""The whole model: front end -> body -> towers. Heads say how its outputs are trained; `predictions` what they mean."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from models.layers import Towers
from models.tasks import Task, check_tasks

if TYPE_CHECKING:  # a model that serves needs `table_groups`, and has no torchrec
    from torchrec import KeyedJaggedTensor

    from models.front_end import FrontEnd


def table_groups(body_class: type[nn.Module], tasks: Sequence[Task]) -> list[str]:
    """The groups of tables that a body wants of the front end: "" for the shared ones, a task's name for its own.

    It says so in its attribute `tables`: "shared", which is the default, "per_task" or "shared_and_per_task".
    """
    names = [task.name for task in tasks]
    groups = {"shared": [""], "per_task": names, "shared_and_per_task": ["", *names]}
    return groups[getattr(body_class, "tables", "shared")]


class MultiTaskModel(nn.Module):
    """([B, D], sparse) -> [B, O]: the raw outputs of the tasks, in the order of `tasks`.

    For a binary task it is the logit of P(task | space).
    """

    def __init__(
        self, front_end: "FrontEnd", body: nn.Module, tasks: Sequence[Task], tower_widths: Sequence[int]
    ) -> None:
        super().__init__()
        check_tasks(tasks)
        self.tasks = tuple(tasks)
        self.front_end = front_end
        self.body = body
        num_outputs = [task.num_outputs for task in tasks]
        self.towers = Towers(num_outputs, int(body.output_width), tower_widths)  # type: ignore[arg-type]

    def forward(self, dense: Tensor, sparse: "KeyedJaggedTensor") -> Tensor:
        logit_BO: Tensor = self.towers(self.body(self.front_end(dense, sparse)))
        return logit_BO
