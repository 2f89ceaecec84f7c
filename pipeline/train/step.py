"""One training step: a forward pass, the balancer's weights, one backward pass.

There is one backward pass whatever the balancer, because the tables are updated inside it: two would update them twice.

Shapes: T tasks, P shared dense parameters, X elements of this rank's inputs to the body.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

from models.balancers.balancer import Weights
from models.batch import Batch
from pipeline.train.config import TrainConfig
from pipeline.train.optimizers import dense_parameters, set_learning_rates
from pipeline.train.training_model import TrainingModel


class TrainingStep:
    """Trains on one batch per call; all ranks call it in step. `model` wraps `training_model`.

    After a call `weights` are the balancer's of this step, and `gram_TT` the inner products of the tasks' gradients on
    the shared part, or None where nobody asked for them.
    """

    def __init__(
        self,
        model: DistributedModelParallel,
        training_model: TrainingModel,
        optimizer: CombinedOptimizer,
        config: TrainConfig,
    ) -> None:
        self.model = model
        self.training_model = training_model
        self.optimizer = optimizer
        self.config = config
        self.weights: Weights
        self.gram_TT: Tensor | None = None

    def __call__(
        self, batch: Batch, step: int, learning_rate_factor: float = 1.0, *, with_gram: bool = False
    ) -> Tensor:
        """Trains step number `step`, counted from 0, and returns the [2, T] sums of `TrainingModel`."""
        balancer = self.training_model.balancer
        set_learning_rates(
            self.optimizer, self.config.sparse_optimizer, self.config.dense_optimizer, learning_rate_factor
        )
        # zero_grad also pushes the sparse learning rate into the fused kernel.
        self.optimizer.zero_grad()
        losses_T, sums = self.model(batch)
        self.training_model.shared_T.fill_(1.0)
        self.gram_TT = self._gram(losses_T) if with_gram or balancer.needs_gradients else None
        gram_TT = self.gram_TT if balancer.needs_gradients else None
        self.weights = balancer.weights(self.training_model.mean_losses(sums), gram_TT, step)
        self.training_model.shared_T.copy_(self.weights.shared_T)
        (losses_T * self.weights.loss_T).sum().backward()
        if self.config.max_gradient_norm is not None:
            torch.nn.utils.clip_grad_norm_(dense_parameters(self.model), self.config.max_gradient_norm)
        self.optimizer.step()
        if balancer.needs_losses_after:
            with torch.no_grad():
                balancer.observe(self.training_model.mean_losses(self.model(batch)[1]))
        result: Tensor = sums
        return result

    def _gram(self, losses_T: Tensor) -> Tensor:
        """The inner products of the tasks' gradients on the shared part, over all ranks: [T, T] in float64.

        The shared part is the body's parameters and, for all that lies before the body, its inputs: a row of a table
        that several rows of the batch share counts once for each.
        """
        shared = [*self.training_model.model.body.parameters(), self.training_model.inputs]
        parameters_TP, inputs_TX = [], []
        for loss in losses_T.unbind():
            # Stops at the body's inputs, so no table is updated and no hook of the data-parallel wrapper runs.
            found = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
            *of_parameters, of_inputs = (
                torch.zeros_like(part) if gradient is None else gradient
                for part, gradient in zip(shared, found, strict=True)
            )
            parameters_TP.append(torch.cat([gradient.flatten() for gradient in of_parameters]))
            inputs_TX.append(of_inputs.flatten())
        num_ranks = dist.get_world_size()
        gradient_TP, gradient_TX = torch.stack(parameters_TP), torch.stack(inputs_TX).double()
        # Losses are scaled by the number of ranks: the mean over ranks is the gradient of the global loss.
        dist.all_reduce(gradient_TP)
        gram_TT = gradient_TX @ gradient_TX.T / num_ranks**2
        dist.all_reduce(gram_TT)
        gradient_TP = gradient_TP.double() / num_ranks
        return gram_TT + gradient_TP @ gradient_TP.T
