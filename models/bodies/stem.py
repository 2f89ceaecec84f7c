"""STEM-Net (Su et al., AAAI 2024): shared tables and tables of each task; a task sees all experts, trains its own."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.inputs import Inputs
from models.layers import ExpertBank, Mixture, SoftmaxGates
from models.products import as_factor, mix_experts
from models.tasks import Task


class STEM(nn.Module):
    """[B, 1 + T, I] -> [B, T, H]: shared tables first, then each task's; H = widths[-1].

    A task's gate reads its own embeddings and weighs the experts of all tasks and the shared ones; gradients go back
    to its own experts and the shared ones only.
    """

    tables: ClassVar[str] = "shared_and_per_task"

    def __init__(
        self,
        inputs: Inputs,
        tasks: Sequence[Task],
        *,
        num_shared_experts: int = 1,
        num_task_experts: int = 1,
        widths: tuple[int, ...] = (64, 32),
    ) -> None:
        super().__init__()
        num_tasks = len(tasks)
        self.own_experts = ExpertBank(inputs.width, num_task_experts, widths, num_groups=num_tasks)
        self.shared_experts = ExpertBank(inputs.width, num_shared_experts, widths)
        self.names = (
            *(f"{task.name} {place}" for task in tasks for place in range(num_task_experts)),
            *(f"shared {place}" for place in range(num_shared_experts)),
        )
        self.gates = SoftmaxGates(inputs.width, 1, len(self.names), num_groups=num_tasks)
        self.trained_TE: Tensor
        own_TE = torch.eye(num_tasks).repeat_interleave(num_task_experts, dim=1)
        shared_TE = torch.ones(num_tasks, num_shared_experts)
        self.register_buffer("trained_TE", torch.cat([own_TE, shared_TE], dim=1), persistent=False)
        self.output_width = widths[-1]

    def forward(self, x_BGI: Tensor) -> Tensor:
        z_BTH, _ = self.mix(x_BGI)
        return z_BTH

    def mix(self, x_BGI: Tensor) -> tuple[Tensor, dict[str, Mixture]]:
        """What `forward` gives, and what it is made of: all experts, each task's own first, and each task's gate, which
        sees all of them.
        """
        x_GBI = as_factor(x_BGI).transpose(0, 1)
        h_BEH = torch.cat([self.own_experts(x_GBI[1:]), self.shared_experts(x_GBI[:1])], dim=1)
        weight_BTE = self.gates(x_GBI[1:])
        trained_BTE = weight_BTE * self.trained_TE
        z_BTH = mix_experts(trained_BTE, h_BEH) + mix_experts(weight_BTE - trained_BTE, h_BEH.detach())
        seen_TE = torch.ones_like(self.trained_TE, dtype=torch.bool)
        return z_BTH, {"experts": Mixture(self.names, h_BEH, weight_BTE, seen_TE)}
