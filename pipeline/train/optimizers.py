"""The two optimizers of a run: one fused into the tables' backward pass, one for everything else."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward as fuse_into_backward  # type: ignore[attr-defined]
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim import SGD, Adagrad, Adam, PartialRowWiseAdam, RowWiseAdagrad
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from pipeline.train.config import DenseOptimizerConfig, ScheduleConfig, SparseOptimizerConfig
from pipeline.train.tables.initial_weights import table_of as table_of_weight
from pipeline.train.tables.settings import TableSettings

FUSED: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": SGD,
    "adagrad": Adagrad,
    "rowwise_adagrad": RowWiseAdagrad,
    "adam": Adam,
    "partial_rowwise_adam": PartialRowWiseAdam,
}
# The same updates outside the fused kernel, for tables that every rank has whole.
REPLICATED = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad, "rowwise_adagrad": RowWiseAdagrad}
EPS = 1e-8


def fuse_sparse_optimizers(
    model: nn.Module, table_of: Mapping[str, str], settings: Mapping[str, TableSettings]
) -> None:
    """Gives every table its optimizer; must come before sharding, or tables train with SGD at 0.01 without a word.

    `table_of` gives the configured table of each table of the model.
    """
    for name, parameter in model.named_parameters():
        table = table_of_weight(name)
        if table is not None:
            config = settings[table_of[table]].optimizer
            options = _sparse_options(config)
            if config.max_gradient is not None:
                options |= {"gradient_clipping": True, "max_gradient": config.max_gradient}
            fuse_into_backward(FUSED[config.kind], [parameter], options)


def make_optimizer(
    model: DistributedModelParallel,
    dense: DenseOptimizerConfig,
    table_of: Mapping[str, str],
    settings: Mapping[str, TableSettings],
) -> CombinedOptimizer:
    """The fused optimizer, the dense one, and one like the fused for the tables of each kind that are data-parallel.

    Data-parallel tables leave the fused optimizer; by the dense one they would be trained in another way.
    """
    left = dict(in_backward_optimizer_filter(model.named_parameters()))
    tables = {name: table for name in left if (table := table_of_weight(name)) is not None}
    parts = [("sparse", model.fused_optimizer)]
    others = {name: parameter for name, parameter in left.items() if name not in tables}
    parts.append(("dense", KeyedOptimizerWrapper(others, lambda params: _dense_optimizer(params, dense))))
    for name, table in tables.items():
        config = settings[table_of[table]].optimizer
        part = KeyedOptimizerWrapper({name: left[name]}, partial(_replicated_optimizer, config=config))
        parts.append((f"data_parallel.{table}", part))
    return CombinedOptimizer(parts)


class LearningRates:
    """Sets the learning rates of all optimizers as functions of the step; so they need no place in a checkpoint."""

    def __init__(
        self, optimizer: CombinedOptimizer, sparse: ScheduleConfig, dense: ScheduleConfig, num_steps: int
    ) -> None:
        self.num_steps = num_steps
        # Every group has its configured rate now, and loading a checkpoint does not change it.
        self._groups = [
            (group, group["lr"], dense if name == "dense" else sparse)
            for name, part in optimizer.optimizers
            for group in part.param_groups
        ]

    def set(self, step: int) -> None:
        """Sets the rates of step number `step`, counted from 0; `zero_grad` then hands them to the tables."""
        for group, rate, schedule in self._groups:
            group["lr"] = rate * factor_at(schedule, step, self.num_steps)


def factor_at(schedule: ScheduleConfig, step: int, num_steps: int) -> float:
    """The factor on a learning rate at step number `step`, counted from 0, of a run of at most `num_steps`."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    if schedule.decay == "none":
        return 1.0
    decay_steps = schedule.decay_steps or max(num_steps - schedule.warmup_steps, 1)
    done = min((step - schedule.warmup_steps) / decay_steps, 1.0)
    left = 1.0 - done if schedule.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return schedule.final_factor + (1.0 - schedule.final_factor) * left


def create_state(optimizer: CombinedOptimizer) -> None:
    """Makes the state that optimizers otherwise make at their first step, so that it can be loaded into."""
    for name, part in optimizer.optimizers:
        if name != "sparse":
            part.init_state()


def optimizer_tensors(optimizer: CombinedOptimizer) -> dict[str, dict[str, Any]]:
    """The state of all optimizers by parameter and name, in place, with the same names under every sharding plan.

    The fused optimizer's names, such as "item.momentum1", are also those of data-parallel tables; their count of steps,
    which no formula here uses, is left out.
    """
    tensors: dict[str, dict[str, Any]] = {}
    for name, part in optimizer.optimizers:
        state = part.state_dict()["state"]
        if name in ("sparse", "dense"):
            tensors |= state
            continue
        for parameter, values in state.items():
            table = table_of_weight(parameter)
            if "sum" in values:
                sums = values["sum"]
                tensors[parameter] = {f"{table}.momentum1": sums.view(-1) if sums.size(1) == 1 else sums}
    return tensors


def dense_parameters(optimizer: CombinedOptimizer) -> list[nn.Parameter]:
    """The parameters that the dense optimizer trains."""
    (dense,) = (part for name, part in optimizer.optimizers if name == "dense")
    return [parameter for group in dense.param_groups for parameter in group["params"]]


def _dense_optimizer(parameters: list[nn.Parameter], config: DenseOptimizerConfig) -> torch.optim.Optimizer:
    if config.kind == "sgd":
        return torch.optim.SGD(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    optimizer_class = torch.optim.AdamW if config.kind == "adamw" else torch.optim.Adam
    return optimizer_class(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def _replicated_optimizer(parameters: list[nn.Parameter], config: SparseOptimizerConfig) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = REPLICATED[config.kind](parameters, **_sparse_options(config))
    return optimizer


def _sparse_options(config: SparseOptimizerConfig) -> dict[str, Any]:
    options: dict[str, Any] = {"lr": config.learning_rate}
    if config.kind != "sgd":
        options["eps"] = EPS if config.eps is None else config.eps
    if config.betas is not None:
        options["betas"] = config.betas
    if config.weight_decay:
        options["weight_decay"] = config.weight_decay
    return options
