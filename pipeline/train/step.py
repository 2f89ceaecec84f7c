"""One training step: a forward pass, the balancer's weights, one backward pass.

There is one backward pass whatever the balancer, because the tables are updated inside it: two would update them twice.

Shapes: T tasks, P shared dense parameters, X elements of this rank's inputs to the body.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.optim.keyed import CombinedOptimizer

from models.balancers.balancer import Weights
from models.batch import Batch
from pipeline.train.config import TrainConfig
from pipeline.train.optimizers import LearningRates, dense_parameters
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
        num_steps: int,
    ) -> None:
        self.model = model
        self.training_model = training_model
        self.optimizer = optimizer
        self.max_gradient_norm = config.max_gradient_norm
        self.learning_rates = LearningRates(optimizer, config.sparse_schedule, config.dense_schedule, num_steps)
        self.weights: Weights
        self.gram_TT: Tensor | None = None

    def __call__(self, batch: Batch, step: int, *, with_gram: bool = False) -> Tensor:
        """Trains step number `step`, counted from 0, and returns the [2, T] sums of `TrainingModel`."""
        self.start(step, with_gram=with_gram)
        # This also hands the learning rates to the tables.
        self.optimizer.zero_grad()
        losses_T, sums = self.model(batch)
        self.backward(losses_T, sums)
        self.update()
        balancer = self.training_model.balancer
        if balancer.needs_losses_after:
            with torch.no_grad():
                balancer.observe(self.training_model.mean_losses(self.model(batch)[1]))
        result: Tensor = sums
        return result

    def start(self, step: int, *, with_gram: bool) -> None:
        """What comes before `zero_grad`."""
        self.number = step
        self.with_gram = with_gram
        self.learning_rates.set(step)

    def backward(self, losses_T: Tensor, sums: Tensor) -> None:
        """The balancer's weights and the one backward pass, which updates the fused tables."""
        balancer = self.training_model.balancer
        self.training_model.shared_T.fill_(1.0)
        self.gram_TT = self._gram(losses_T) if self.with_gram or balancer.needs_gradients else None
        gram_TT = self.gram_TT if balancer.needs_gradients else None
        self.weights = balancer.weights(self.training_model.mean_losses(sums), gram_TT, self.number)
        self.training_model.shared_T.copy_(self.weights.shared_T)
        torch.autograd.backward((losses_T * self.weights.loss_T).sum())

    def update(self) -> None:
        """Updates what is not fused."""
        if self.max_gradient_norm is not None:
            torch.nn.utils.clip_grad_norm_(dense_parameters(self.optimizer), self.max_gradient_norm)
        self.optimizer.step()

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


class OverlappedStep(TrainPipelineSparseDist):  # type: ignore[misc]
    """The same step inside TorchRec's pipeline, which sends the ids of the next batch while this one is computed.

    It has taken two batches more from its iterator than it has trained.
    """

    def __init__(self, step: TrainingStep, device: torch.device) -> None:
        super().__init__(step.model, step.optimizer, device, custom_model_fwd=self._forward)
        self._step = step

    def train(self, batches: Iterator[Batch], step: int, *, with_gram: bool = False) -> tuple[Batch, Tensor]:
        """Trains step number `step` and returns its batch and the [2, T] sums of `TrainingModel`."""
        self._step.start(step, with_gram=with_gram)
        trained: tuple[Batch, Tensor] = self.progress(batches)
        return trained

    def _forward(self, batch: Batch) -> tuple[Tensor, tuple[Batch, Tensor]]:
        losses_T, self._sums = self._step.model(batch)
        return losses_T, (batch, self._sums)

    def _backward(self, losses: Tensor) -> None:
        self._step.backward(losses, self._sums)

    def _optimizer_step(self) -> None:
        self._step.update()
