"""From a training model on one machine to a sharded one with its optimizers, in the one order that works."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper
from torchrec.optim.keyed import CombinedOptimizer

from pipeline.train.config import TrainConfig
from pipeline.train.optimizers import fuse_sparse_optimizers, make_optimizer
from pipeline.train.tables.initial_weights import fill_tables
from pipeline.train.tables.settings import table_settings
from pipeline.train.tables.sharding import make_sharders, plan_tables
from pipeline.train.training_model import TrainingModel


@dataclass(frozen=True)
class Distributed:
    """The sharded model, its optimizers, and the placement of its tables as text."""

    model: DistributedModelParallel
    optimizer: CombinedOptimizer
    plan: str


def distribute(
    training_model: TrainingModel,
    config: TrainConfig,
    device: torch.device,
    seed: int,
    rows_per_rank: int,
    ids_per_row: Mapping[str, int],
) -> Distributed:
    """Shards a model and makes its optimizers. Needs a process group; tables must be on meta.

    Dense layers keep their values, tables get those of `fill_tables`. The plan is made for batches of `rows_per_rank`
    rows with up to `ids_per_row` ids of a feature, one if it is not named.

    Raises:
        ConfigError: the tables do not fit the ranks.
    """
    # 1. Dense layers to the device.
    for part in (*training_model.parameters(), *training_model.buffers()):
        if not part.is_meta:
            part.data = part.data.to(device)
    # 2. The sparse optimizers, fused into the tables. 3. The plan. 4. The sharded model. 5. The tables' values.
    table_of = training_model.model.front_end.table_of
    settings = table_settings(table_of.values(), config)
    fuse_sparse_optimizers(training_model, table_of, settings)
    sharders = make_sharders()
    plan = plan_tables(
        training_model, table_of, settings, config.sharding, sharders, device, rows_per_rank, ids_per_row
    )
    model = DistributedModelParallel(
        training_model,
        device=device,
        plan=plan.sharding,
        sharders=sharders,
        # With the default static graph, gradients taken before the backward pass would be silently wrong.
        data_parallel_wrapper=DefaultDataParallelWrapper(static_graph=False),
    )
    fill_tables(model, seed)
    # 6. The dense optimizer, for what is left.
    return Distributed(model, make_optimizer(model, config.dense_optimizer, table_of, settings), plan.text)
