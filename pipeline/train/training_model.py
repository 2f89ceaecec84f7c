"""The module that is trained: (losses, sums) = TrainingModel(batch), the contract of TorchRec's pipelines.

Shapes: B rows, I input width, T tasks, H expert width, O outputs.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.balancers.balancer import Balancer
from models.batch import Batch
from models.layers import Untraced
from models.losses import task_loss_sums
from models.multitask import MultiTaskModel


class TrainingModel(nn.Module):
    """Model, head, losses and balancer, normalised so that the curve does not depend on the number of ranks.

    `losses` [T] are what this rank back-propagates: number of ranks * sum(w l) / global sum(w), because the gradients
    of tables and of dense layers are averaged over ranks. `sums` [2, T] are sum(w l) and sum(w) of all ranks, detached.

    With `micro_batch_rows` the dense part takes so many rows at a time and keeps nothing of them but its outputs; the
    backward pass computes them again. The tables see the whole batch once, because their optimizer runs inside the
    backward pass. `is_bfloat16` is about the products of the dense part; tables, parameters and losses are float32.

    After a forward pass `inputs` holds what the front end gave the body; the backward pass multiplies what flows from
    each task's tower into the shared part by `shared_T`, which may be filled between the two.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        head: nn.Module,
        balancer: Balancer,
        *,
        micro_batch_rows: int | None = None,
        is_bfloat16: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.balancer = balancer
        self.micro_batch_rows = micro_batch_rows
        self.is_bfloat16 = is_bfloat16
        self.inputs: Tensor
        self.task_weight_T: Tensor
        self.shared_T: Tensor
        self.register_buffer("task_weight_T", torch.tensor([task.weight for task in model.tasks]), persistent=False)
        self.register_buffer("shared_T", torch.ones(len(model.tasks)), persistent=False)
        self._losses_of = Untraced(self._losses)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        losses_T, sums = self._losses_of(self.model.front_end(batch.dense, batch.sparse), batch.labels, batch.weights)
        return losses_T, sums

    def _losses(self, x_BI: Tensor, labels_BT: Tensor, weight_B: Tensor) -> tuple[Tensor, Tensor]:
        self.inputs = x_BI
        logit_BO, target_BT, mask_BT = self.head(self._logits(x_BI), labels_BT)
        loss_T, weight_T = task_loss_sums(self.model.tasks, logit_BO, target_BT, mask_BT, weight_B)
        sums = torch.stack([loss_T.detach(), weight_T])
        # Every rank takes part in every step, also one without a row of some task.
        dist.all_reduce(sums)
        scale_T = dist.get_world_size() * self.task_weight_T / sums[1].clamp_min(1e-12)
        return loss_T * scale_T, sums

    def _logits(self, x_BI: Tensor) -> Tensor:
        rows = self.micro_batch_rows
        if rows is None or not torch.is_grad_enabled():
            return self._dense_part(x_BI)
        parts = [checkpoint(self._dense_part, part, use_reentrant=False) for part in torch.split(x_BI, rows)]
        return torch.cat(parts)

    def _dense_part(self, x_BI: Tensor) -> Tensor:
        with torch.autocast(x_BI.device.type, torch.bfloat16, enabled=self.is_bfloat16):
            z_BTH = _ScaleGradient.apply(self.model.body(x_BI), self.shared_T)  # type: ignore[no-untyped-call]
            logit_BO: Tensor = self.model.towers(z_BTH)
        return logit_BO.float()

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
        return gradient_BTH * ctx.scale_T[:, None].to(gradient_BTH.dtype), None
