"""From a training model on one machine to a sharded one with its optimizers, in the one order that works."""

import torch
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper
from torchrec.distributed.types import ShardingPlan
from torchrec.optim.keyed import CombinedOptimizer

from pipeline.train.config import TrainConfig
from pipeline.train.initial_weights import fill_tables
from pipeline.train.optimizers import fuse_sparse_optimizer, make_optimizer
from pipeline.train.sharding import make_sharders, plan_tables
from pipeline.train.training_model import TrainingModel


def distribute(
    training_model: TrainingModel, config: TrainConfig, device: torch.device, seed: int, rows_per_rank: int
) -> tuple[DistributedModelParallel, CombinedOptimizer, ShardingPlan]:
    """The sharded model, its optimizers and the plan. Needs a process group; tables must be on meta.

    Dense layers keep their values, tables get those of `fill_tables`.

    Raises:
        ConfigError: the tables do not fit the ranks.
    """
    # 1. Dense layers to the device.
    for part in (*training_model.parameters(), *training_model.buffers()):
        if not part.is_meta:
            part.data = part.data.to(device)
    # 2. The sparse optimizer, fused into the tables. 3. The plan. 4. The sharded model. 5. The tables' values.
    front_end = training_model.model.front_end
    for collection in front_end.collections:
        fuse_sparse_optimizer(collection.parameters(), config.sparse_optimizer)
    sharders = make_sharders()
    plan = plan_tables(training_model, front_end.table_of, config.sharding, sharders, device, rows_per_rank)
    model = DistributedModelParallel(
        training_model,
        device=device,
        plan=plan,
        sharders=sharders,
        # With the default static graph, gradients taken before the backward pass would be silently wrong.
        data_parallel_wrapper=DefaultDataParallelWrapper(static_graph=False),
    )
    fill_tables(model, seed)
    # 6. The dense optimizer, for what is left.
    return model, make_optimizer(model, config.dense_optimizer), plan
