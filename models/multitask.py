"""The whole model: front end -> body -> towers. Heads say how its outputs are trained; `predictions` what they mean."""

from collections.abc import Sequence

from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from models.front_end import FrontEnd
from models.layers import Towers
from models.tasks import Task, check_tasks


class MultiTaskModel(nn.Module):
    """([B, D], sparse) -> [B, T]: one raw output per task, in the order of `tasks`.

    For a binary task it is the logit of P(task | space).
    """

    def __init__(
        self, front_end: FrontEnd, body: nn.Module, tasks: Sequence[Task], tower_widths: Sequence[int]
    ) -> None:
        super().__init__()
        check_tasks(tasks)
        self.tasks = tuple(tasks)
        self.front_end = front_end
        self.body = body
        self.towers = Towers(len(tasks), int(body.output_width), tower_widths)  # type: ignore[arg-type]

    def forward(self, dense: Tensor, sparse: KeyedJaggedTensor) -> Tensor:
        logit_BT: Tensor = self.towers(self.body(self.front_end(dense, sparse)))
        return logit_BT
