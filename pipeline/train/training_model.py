"""The module that is trained: (losses, sums) = TrainingModel(batch), the contract of TorchRec's pipelines."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.balancers.balancer import Balancer
from models.batch import Batch
from models.losses import task_loss_sums
from models.multitask import MultiTaskModel


class TrainingModel(nn.Module):
    """Model, head, losses and balancer, normalised so that the curve does not depend on the number of ranks.

    `losses` [T] are what this rank back-propagates: number of ranks * sum(w l) / global sum(w), because the gradients
    of tables and of dense layers are averaged over ranks. `sums` [2, T] are sum(w l) and sum(w) of all ranks, detached.

    After a forward pass `inputs` holds what the front end gave the body; the backward pass multiplies what flows from
    each task's tower into the shared part by `shared_T`, which may be filled between the two.
    """

    def __init__(self, model: MultiTaskModel, head: nn.Module, balancer: Balancer) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.balancer = balancer
        self.inputs: Tensor
        self.task_weight_T: Tensor
        self.shared_T: Tensor
        self.register_buffer("task_weight_T", torch.tensor([task.weight for task in model.tasks]), persistent=False)
        self.register_buffer("shared_T", torch.ones(len(model.tasks)), persistent=False)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        self.inputs = self.model.front_end(batch.dense, batch.sparse)
        z_BTH = _ScaleGradient.apply(self.model.body(self.inputs), self.shared_T)  # type: ignore[no-untyped-call]
        logit_BO, target_BT, mask_BT = self.head(self.model.towers(z_BTH), batch.labels)
        loss_T, weight_T = task_loss_sums(self.model.tasks, logit_BO, target_BT, mask_BT, batch.weights)
        sums = torch.stack([loss_T.detach(), weight_T])
        # Every rank takes part in every step, also one without a row of some task.
        dist.all_reduce(sums)
        scale_T = dist.get_world_size() * self.task_weight_T / sums[1].clamp_min(1e-12)
        return loss_T * scale_T, sums

    def mean_losses(self, sums: Tensor) -> Tensor:
        """Each task's weighted mean loss over the global batch, NaN where it has no row: [T]."""
        return self.task_weight_T * torch.where(sums[1] > 0, sums[0] / sums[1], torch.nan)


class _ScaleGradient(torch.autograd.Function):
    """z_BTH as it is; backwards, task t's gradient times scale_T[t] as it is by then."""

    @staticmethod
    def forward(ctx: Any, z_BTH: Tensor, scale_T: Tensor) -> Tensor:
        ctx.scale_T = scale_T
        return z_BTH.view_as(z_BTH)

    @staticmethod
    def backward(ctx: Any, gradient_BTH: Tensor) -> tuple[Tensor, None]:
        return gradient_BTH * ctx.scale_T[:, None], None
