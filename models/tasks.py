"""Tasks as tensors see them: a name, a kind, the rows they are defined on, in a fixed order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

JOINT_PREFIX = "joint_"


@dataclass(frozen=True)
class Task:
    """One objective. `space` names the binary task on whose positive rows it is defined; None means all rows.

    A regression predicts `center + scale * output`; its loss is measured in units of `scale`.
    """

    name: str
    kind: Literal["binary", "regression"]
    space: str | None = None
    center: float = 0.0
    scale: float = 1.0
    weight: float = 1.0


def chain_of(tasks: Sequence[Task], task: Task) -> list[int]:
    """The places of a task and of the tasks its space depends on, the first of the chain first."""
    places = {t.name: place for place, t in enumerate(tasks)}
    chain = [places[task.name]]
    space = task.space
    while space is not None:
        chain.insert(0, places[space])
        space = tasks[places[space]].space
    return chain


def check_tasks(tasks: Sequence[Task]) -> None:
    """Raises a ValueError when names repeat or a space does not name an earlier binary task."""
    binary: set[str] = set()
    names: set[str] = set()
    for task in tasks:
        if task.name in names:
            raise ValueError(f"task {task.name!r} is given twice")
        if task.space is not None and task.space not in binary:
            raise ValueError(f"task {task.name!r}: space {task.space!r} is not a binary task before it")
        names.add(task.name)
        if task.kind == "binary":
            binary.add(task.name)


def space_mask(tasks: Sequence[Task], label_BT: Tensor) -> Tensor:
    """True where a task is defined and labelled: [B, T]; labels may be NaN."""
    columns = []
    for place, task in enumerate(tasks):
        mask_B = ~label_BT[:, place].isnan()
        for earlier in chain_of(tasks, task)[:-1]:
            mask_B = mask_B & (label_BT[:, earlier] == 1)
        columns.append(mask_B)
    return torch.stack(columns, dim=1)


def joint_label(label_BC: Tensor) -> tuple[Tensor, Tensor]:
    """The product of a chain's labels and whether it is known: a 0 decides it, even where a later label is null."""
    zero_B = (label_BC == 0).any(dim=1)
    null_B = label_BC.isnan().any(dim=1)
    target_B = torch.where(zero_B, 0.0, label_BC.nan_to_num().prod(dim=1))
    return target_B, zero_B | ~null_B


def joint_log_probability(tasks: Sequence[Task], task: Task, logit_BT: Tensor) -> Tensor:
    """log P(the task and every task of its chain), as a sum of logsigmoid in float32: [B]. Only for binary tasks."""
    chain = chain_of(tasks, task)
    return torch.nn.functional.logsigmoid(logit_BT[:, chain].float()).sum(dim=1)


def output_names(tasks: Sequence[Task]) -> list[str]:
    """The names that `predictions` gives."""
    joint = [JOINT_PREFIX + task.name for task in tasks if task.kind == "binary" and task.space is not None]
    return [*(task.name for task in tasks), *joint]


def predictions(tasks: Sequence[Task], logit_BT: Tensor) -> dict[str, Tensor]:
    """What the model says, by name, each [B] in float32.

    A binary task gives the probability on its own space, P(task | space); a regression its expected value there.
    A binary task with a space also gives `joint_<name>`, the probability over all impressions.
    """
    outputs: dict[str, Tensor] = {}
    for place, task in enumerate(tasks):
        raw_B = logit_BT[:, place].float()
        if task.kind == "regression":
            outputs[task.name] = task.center + task.scale * raw_B
            continue
        outputs[task.name] = raw_B.sigmoid()
        if task.space is not None:
            outputs[JOINT_PREFIX + task.name] = joint_log_probability(tasks, task, logit_BT).exp()
    return outputs
