"""The module that is trained: (losses, sums) = TrainingModel(batch), the contract of TorchRec's pipelines."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.batch import Batch
from models.losses import task_loss_sums
from models.multitask import MultiTaskModel


class TrainingModel(nn.Module):
    """Model, head and losses, normalised so that the curve does not depend on the number of ranks.

    `losses` [T] are what this rank back-propagates: number of ranks * sum(w l) / global sum(w), because the gradients
    of tables and of dense layers are averaged over ranks. `sums` [2, T] are this rank's sum(w l) and sum(w), detached.
    """

    def __init__(self, model: MultiTaskModel, head: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.task_weight_T: Tensor
        self.register_buffer("task_weight_T", torch.tensor([task.weight for task in model.tasks]), persistent=False)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logit_BT = self.model(batch.dense, batch.sparse)
        logit_BT, target_BT, mask_BT = self.head(logit_BT, batch.labels)
        loss_T, weight_T = task_loss_sums(self.model.tasks, logit_BT, target_BT, mask_BT, batch.weights)
        sums = torch.stack([loss_T.detach(), weight_T])
        # Every rank takes part in every step, also one without a row of some task.
        global_weight_T = weight_T.clone()
        dist.all_reduce(global_weight_T)
        scale_T = dist.get_world_size() * self.task_weight_T / global_weight_T.clamp_min(1e-12)
        return loss_T * scale_T, sums
