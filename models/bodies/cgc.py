"""CGC, customized gate control (Tang et al., RecSys 2020): experts of each task beside shared ones."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.inputs import Inputs
from models.layers import ExpertBank, Mixture, SoftmaxGates
from models.products import as_factor, mix_experts
from models.tasks import Task


class CGC(nn.Module):
    """[B, I] -> [B, T, H]: each task mixes its own experts and the shared ones, H = widths[-1]."""

    def __init__(
        self,
        inputs: Inputs,
        tasks: Sequence[Task],
        *,
        num_shared_experts: int = 2,
        num_task_experts: int = 2,
        widths: tuple[int, ...] = (64, 32),
    ) -> None:
        super().__init__()
        names = [task.name for task in tasks]
        self.level = ExtractionLevel(inputs.width, names, num_shared_experts, num_task_experts, widths, is_first=True)
        self.output_width = widths[-1]

    def forward(self, x_BI: Tensor) -> Tensor:
        z_BTH, _ = self.mix(x_BI)
        return z_BTH

    def mix(self, x_BI: Tensor) -> tuple[Tensor, dict[str, Mixture]]:
        """What `forward` gives, and what it is made of: the experts and each task's gate, which sees its own experts
        and the shared ones.
        """
        z_BTH, mixture = self.level(as_factor(x_BI).unsqueeze(0))
        return z_BTH, {"experts": mixture}


class ExtractionLevel(nn.Module):
    """One level: [G, B, I] -> [B, T, H], or [B, T + 1, H] with the mix of all experts that the next level shares.

    With it comes what it is made of: the experts, each task's own first, and the tasks' gates.

    The first level has one input, G = 1; a later one has an input per task and then the shared one, G = T + 1.
    """

    def __init__(
        self,
        input_width: int,
        task_names: Sequence[str],
        num_shared: int,
        num_own: int,
        widths: Sequence[int],
        *,
        is_first: bool,
        is_last: bool = True,
    ) -> None:
        super().__init__()
        num_tasks = len(task_names)
        num_all = num_tasks * num_own + num_shared
        self.names = (
            *(f"{task} {place}" for task in task_names for place in range(num_own)),
            *(f"shared {place}" for place in range(num_shared)),
        )
        self.num_own, self.is_first = num_own, is_first
        if min(num_shared, num_own) < 1:
            raise ValueError(f"{num_shared} shared experts and {num_own} per task: there must be at least 1 of each")
        if is_first:
            self.experts = ExpertBank(input_width, num_all, widths)
        else:
            self.own_experts = ExpertBank(input_width, num_own, widths, num_groups=num_tasks)
            self.shared_experts = ExpertBank(input_width, num_shared, widths)
        groups = {"num_gates": num_tasks} if is_first else {"num_gates": 1, "num_groups": num_tasks}
        self.gates = SoftmaxGates(input_width, num_experts=num_own + num_shared, **groups)
        self.shared_gate = None if is_last else SoftmaxGates(input_width, 1, num_all)
        self.own_TT: Tensor
        self.seen_TE: Tensor
        self.register_buffer("own_TT", torch.eye(num_tasks), persistent=False)
        own_TE = self.own_TT.bool().repeat_interleave(num_own, dim=1)
        self.register_buffer(
            "seen_TE", torch.cat([own_TE, own_TE.new_ones(num_tasks, num_shared)], 1), persistent=False
        )

    def forward(self, x_GBI: Tensor) -> tuple[Tensor, Mixture]:
        weight_BTE, expert_BEH = self._weights(x_GBI), self._experts(x_GBI)
        mixture = Mixture(self.names, expert_BEH, weight_BTE[:, : len(self.own_TT)], self.seen_TE)
        return mix_experts(weight_BTE, expert_BEH), mixture

    def _experts(self, x_GBI: Tensor) -> Tensor:
        if self.is_first:
            h_BEH: Tensor = self.experts(x_GBI)
            return h_BEH
        banks = self.own_experts(x_GBI[:-1]), self.shared_experts(x_GBI[-1:])
        # One after the other, as each bank has them: row by row they would be copied again backwards.
        return torch.cat([h_BEH.transpose(0, 1) for h_BEH in banks]).transpose(0, 1)

    def _weights(self, x_GBI: Tensor) -> Tensor:
        """The weight of every expert for every task, 0 where its gate does not see it, then for the shared part."""
        gate_BTE = self.gates(x_GBI if self.is_first else x_GBI[:-1])
        own_BTTE = gate_BTE[:, :, None, : self.num_own] * self.own_TT[:, :, None]
        weight_BTE = torch.cat([own_BTTE.flatten(2), gate_BTE[:, :, self.num_own :]], dim=2)
        if self.shared_gate is None:
            return weight_BTE
        return torch.cat([weight_BTE, self.shared_gate(x_GBI[-1:])], dim=1)
