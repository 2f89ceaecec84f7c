"""Tasks as tensors see them: a name, a kind, the rows they are defined on, in a fixed order.

Shapes: B rows, T tasks, O outputs of all tasks one after the other: one each, and one per class of a multiclass task.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

JOINT_PREFIX = "joint_"
# exp(60) is far beyond any watch time and inside float32.
MAX_LOG_ODDS = 60.0


@dataclass(frozen=True)
class Task:
    """One objective. `space` names the binary task on whose positive rows it is defined; None means all rows.

    Labels: binary 0 or 1; multiclass the place of the class in `classes`; regression any number; watch_time at least 0.
    A regression predicts `center + scale * output` and its loss is measured in units of `scale`; a watch time predicts
    `scale * exp(output)`. The rest is for the loss: `weight` of the task, `positive_weight` of a binary task's rows
    with label 1, `huber_delta` in units of `scale` where a regression's loss goes from square to linear.
    """

    name: str
    kind: Literal["binary", "multiclass", "regression", "watch_time"]
    space: str | None = None
    classes: tuple[str, ...] = ()
    center: float = 0.0
    scale: float = 1.0
    weight: float = 1.0
    positive_weight: float = 1.0
    huber_delta: float | None = None

    @property
    def num_outputs(self) -> int:
        return len(self.classes) if self.kind == "multiclass" else 1


def output_columns(tasks: Sequence[Task]) -> list[slice]:
    """The columns of each task in a tensor of all outputs [B, O]."""
    ends = list(accumulate(task.num_outputs for task in tasks))
    return [slice(end - task.num_outputs, end) for task, end in zip(tasks, ends, strict=True)]


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
        if task.kind == "multiclass" and len(task.classes) < 2:
            raise ValueError(f"task {task.name!r} needs at least two classes")
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


def joint_log_probability(tasks: Sequence[Task], task: Task, logit_BO: Tensor) -> Tensor:
    """log P(the task and every task of its chain), as a sum of logsigmoid in float32: [B]. Only for binary tasks."""
    columns = output_columns(tasks)
    chain = [columns[place].start for place in chain_of(tasks, task)]
    return torch.nn.functional.logsigmoid(logit_BO[:, chain].float()).sum(dim=1)


def output_names(tasks: Sequence[Task]) -> list[str]:
    """The names that `predictions` gives."""
    names = [name for task in tasks for name in own_output_names(task)]
    joint = [JOINT_PREFIX + task.name for task in tasks if task.kind == "binary" and task.space is not None]
    return [*names, *joint]


def own_output_names(task: Task) -> list[str]:
    """The names of a task's predictions on its own space: one, or `<task>_<class>` for each class."""
    return [f"{task.name}_{name}" for name in task.classes] if task.kind == "multiclass" else [task.name]


def predictions(tasks: Sequence[Task], logit_BO: Tensor) -> dict[str, Tensor]:
    """What the model says, by name, each [B] in float32.

    A binary task gives the probability on its own space, P(task | space), a multiclass task that of each class, a
    regression or a watch time its expected value there. A binary task with a space also gives `joint_<name>`, the
    probability over all impressions.
    """
    outputs: dict[str, Tensor] = {}
    for task, columns in zip(tasks, output_columns(tasks), strict=True):
        raw_BO = logit_BO[:, columns].float()
        match task.kind:
            case "binary":
                value_BO = raw_BO.sigmoid()
            case "multiclass":
                value_BO = raw_BO.softmax(dim=1)
            case "regression":
                value_BO = task.center + task.scale * raw_BO
            case "watch_time":
                value_BO = task.scale * raw_BO.clamp(max=MAX_LOG_ODDS).exp()
        outputs |= zip(own_output_names(task), value_BO.unbind(dim=1), strict=True)
        if task.kind == "binary" and task.space is not None:
            outputs[JOINT_PREFIX + task.name] = joint_log_probability(tasks, task, logit_BO).exp()
    return outputs
