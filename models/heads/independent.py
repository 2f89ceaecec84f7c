"""The independent head: each task is trained on its own sample space, as if alone."""

from collections.abc import Sequence

from torch import Tensor, nn

from models.tasks import Task, space_mask


class IndependentHead(nn.Module):
    """Trains P(task | space) on the rows of the space."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)

    def forward(self, logit_BO: Tensor, label_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Trained logit [B, O], target (no NaN) and mask, both [B, T]."""
        return logit_BO, label_BT.nan_to_num(), space_mask(self.tasks, label_BT)
