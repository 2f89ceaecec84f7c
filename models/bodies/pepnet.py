"""PEPNet (Chang et al., KDD 2023): chosen features scale the embeddings and, per task, every layer of its network."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.inputs import Inputs
from models.layers import MLP, BatchedLinear, check_widths, silu
from models.tasks import Task


class PEPNet(nn.Module):
    """[B, I] -> [B, T, H]: networks whose units are scaled between 0 and 2, H = widths[-1].

    `domain_features` (such as the page or the country) scale the embeddings, the paper's EPNet; `person_features`
    (such as user and author) scale the layers of each task, its PPNet. Gates also read the embeddings, and give them
    no gradient.
    """

    def __init__(
        self,
        inputs: Inputs,
        tasks: Sequence[Task],
        *,
        domain_features: tuple[str, ...] = (),
        person_features: tuple[str, ...] = (),
        widths: tuple[int, ...] = (64, 32),
        gate_width: int = 32,
    ) -> None:
        super().__init__()
        if not person_features:
            raise ValueError("person_features is empty: name the features that tell people apart, such as user_id")
        sizes = [inputs.width, *check_widths(widths)]
        self.domain_gate = None
        if domain_features:
            self.domain_gate = _Gate(inputs, domain_features, gate_width, inputs.width)
        self.person_gate = _Gate(inputs, person_features, gate_width, len(tasks) * sum(widths))
        self.layers = nn.ModuleList(BatchedLinear(len(tasks), before, after) for before, after in pairwise(sizes))
        self.widths = list(widths)
        self.num_tasks = len(tasks)
        self.output_width = widths[-1]

    def forward(self, x_BI: Tensor) -> Tensor:
        if self.domain_gate is not None:
            x_BI = x_BI * self.domain_gate(x_BI)
        scale_BTN = self.person_gate(x_BI).view(x_BI.shape[0], self.num_tasks, -1)
        h_TBH = x_BI.expand(self.num_tasks, -1, -1)
        for layer, scale_BTH in zip(self.layers, scale_BTN.split(self.widths, dim=2), strict=True):
            h_TBH = silu(layer(h_TBH)) * scale_BTH.transpose(0, 1)
        return h_TBH.transpose(0, 1)


class _Gate(nn.Module):
    """2 * sigmoid of a small network on the chosen inputs and on all inputs, the latter without gradient."""

    def __init__(self, inputs: Inputs, features: Sequence[str], hidden_width: int, output_width: int) -> None:
        super().__init__()
        self.columns_C: Tensor
        self.register_buffer("columns_C", torch.tensor(inputs.columns(features)), persistent=False)
        self.hidden = MLP(len(self.columns_C) + inputs.width, (hidden_width,))
        self.output = nn.Linear(hidden_width, output_width)

    def forward(self, x_BI: Tensor) -> Tensor:
        h_BH = self.hidden(torch.cat([x_BI.index_select(1, self.columns_C), x_BI.detach()], dim=1))
        return 2.0 * torch.sigmoid(self.output(h_BH))
