"""Every body and head of the catalogue to test with every other, and the losses, gradients and steps of one.

A new body or head adds one row of options to small_model.py.

Shapes: B rows, T tasks, O outputs.
"""

import pytest
import torch
from small_model import BODY_OPTIONS, HEAD_OPTIONS, TASKS, make_body
from torch import Tensor, nn

from models.batch import Batch
from models.catalogue import BODIES, HEADS
from models.inputs import DENSE_PART, Inputs
from models.losses import task_loss_sums
from models.multitask import MultiTaskModel, table_groups

BODY_NAMES = sorted(BODIES.keys() & BODY_OPTIONS.keys())
HEAD_NAMES = sorted(HEADS.keys() & HEAD_OPTIONS.keys())
each_body = pytest.mark.parametrize("body", BODY_NAMES)
each_head = pytest.mark.parametrize("head", HEAD_NAMES)
PLACES = range(len(TASKS))


def make_inputs(body: str, num_rows: int) -> tuple[nn.Module, Tensor]:
    """A body by itself and random inputs for it."""
    inputs = Inputs({"user": 5, "item": 4, DENSE_PART: 3}, len(table_groups(BODIES[body], TASKS)))
    shape = (num_rows, inputs.num_groups, inputs.width) if inputs.num_groups > 1 else (num_rows, inputs.width)
    return make_body(body, inputs), torch.randn(shape)


def run(model: MultiTaskModel, batch: Batch) -> Tensor:
    logit_BO: Tensor = model(batch.dense, batch.sparse)
    return logit_BO


def loss_sums(model: MultiTaskModel, head: nn.Module, batch: Batch) -> Tensor:
    """The loss sum of each task: [T]."""
    logit_BO, target_BT, mask_BT = head(run(model, batch), batch.labels)
    return task_loss_sums(TASKS, logit_BO, target_BT, mask_BT, batch.weights)[0]


def gradients(model: MultiTaskModel, loss: Tensor) -> dict[str, Tensor | None]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))


def existing(found: dict[str, Tensor | None]) -> dict[str, Tensor]:
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def train(model: MultiTaskModel, head: nn.Module, batch: Batch, num_steps: int) -> list[float]:
    """The mean loss before each step of Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss = loss_sums(model, head, batch).sum() / len(batch.weights)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses
