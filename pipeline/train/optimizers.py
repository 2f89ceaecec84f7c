"""The two optimizers of a run: one fused into the tables' backward pass, one for everything else."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward as fuse_into_backward  # type: ignore[attr-defined]
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from pipeline.train.config import DenseOptimizerConfig, SparseOptimizerConfig


def fuse_sparse_optimizer(table_parameters: Iterable[nn.Parameter], config: SparseOptimizerConfig) -> None:
    """Gives every table its optimizer; must come before sharding, or tables train with SGD at 0.01 without a word."""
    options = {"lr": config.learning_rate}
    if config.kind == "sgd":
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.SGD
    else:
        optimizer_class = torch.optim.Adagrad if config.kind == "adagrad" else RowWiseAdagrad
        options["eps"] = config.eps
    fuse_into_backward(optimizer_class, table_parameters, options)


def make_optimizer(model: DistributedModelParallel, config: DenseOptimizerConfig) -> CombinedOptimizer:
    """The fused and the dense optimizer as one."""
    dense = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(model.named_parameters())), lambda params: _dense_optimizer(params, config)
    )
    return CombinedOptimizer([("sparse", model.fused_optimizer), ("dense", dense)])


def set_learning_rates(
    optimizer: CombinedOptimizer, sparse: SparseOptimizerConfig, dense: DenseOptimizerConfig, factor: float
) -> None:
    """Sets both learning rates to `factor` times their configured value; `zero_grad` then hands them to the tables.

    They are a function of the step and so need no place in a checkpoint.
    """
    configured = {"sparse": sparse.learning_rate, "dense": dense.learning_rate}
    for name, part in optimizer.optimizers:
        for group in part.param_groups:
            group["lr"] = configured[name] * factor


def create_dense_state(optimizer: CombinedOptimizer) -> None:
    """Makes the dense optimizer's state, which it otherwise makes at its first step, so that it can be loaded into."""
    for name, part in optimizer.optimizers:
        if name == "dense":
            part.init_state()


def dense_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that the dense optimizer trains."""
    return [parameter for _, parameter in in_backward_optimizer_filter(model.named_parameters())]


def _dense_optimizer(parameters: list[nn.Parameter], config: DenseOptimizerConfig) -> torch.optim.Optimizer:
    if config.kind == "sgd":
        return torch.optim.SGD(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    optimizer_class = torch.optim.AdamW if config.kind == "adamw" else torch.optim.Adam
    return optimizer_class(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
