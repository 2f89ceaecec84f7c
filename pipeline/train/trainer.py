"""One rank's training: set-up in the one order that works, and the loop."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from models.batch import Batch
from models.tasks import Task
from pipeline.assemble import build_model, make_balancer, make_head, table_rows
from pipeline.executor import Progress
from pipeline.run_config import RunConfig
from pipeline.shards.assignment import SampleOrder
from pipeline.shards.collate import Layout, collate
from pipeline.shards.manifest import DatasetIndex, Split
from pipeline.shards.reader import ShardReader
from pipeline.train import checkpoint
from pipeline.train.distribute import distribute
from pipeline.train.inspection import inspect_step
from pipeline.train.optimizers import create_dense_state
from pipeline.train.sharding import write_plan
from pipeline.train.step import TrainingStep
from pipeline.train.telemetry import Telemetry
from pipeline.train.training_model import TrainingModel

PLAN_NAME = "plan.txt"


@dataclass
class Position:
    """Where a run stands: `epoch` and `step_in_epoch` are those of the next step, `step` counts all trained ones."""

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    best_validation_total: float | None = None
    validations_without_improvement: int = 0


class Trainer:
    """Trains on one rank of an initialised process group; all ranks run the same code in step."""

    def __init__(
        self,
        config: RunConfig,
        index: DatasetIndex,
        run_fingerprint: str,
        device: torch.device,
        progress: Progress | None = None,
    ) -> None:
        self.config = config
        self.train_config = config.train
        self.index = index
        self.run_fingerprint = run_fingerprint
        self.device = device
        self.layout = Layout.of(index.data_schema, table_rows(index, config.model))
        self.training_reader = self._reader("train", shuffle=True)
        self.validation_reader = self._reader("validation", shuffle=False)

        # Tables on meta, dense layers drawn from the seed; the sharded model; what an earlier attempt reached.
        model = build_model(index, config.model, config.seed, torch.device("meta"))
        self.tasks: tuple[Task, ...] = model.tasks
        tasks = list(model.tasks)
        training_model = TrainingModel(model, make_head(config.model, tasks), make_balancer(config.model, tasks))
        self.model, self.optimizer, plan = distribute(
            training_model, self.train_config, device, config.seed, self.training_reader.rows_per_batch
        )
        self.step = TrainingStep(self.model, training_model, self.optimizer, self.train_config)
        self.position = self._restore()
        self.batches = self._training_batches()
        if dist.get_rank() == 0:
            config.workspace_dir.mkdir(parents=True, exist_ok=True)
            write_plan(plan, config.workspace_dir / PLAN_NAME)
        self.telemetry = Telemetry(
            config.workspace_dir,
            [task.name for task in self.tasks],
            [task.weight for task in self.tasks],
            self.train_config.log_every_steps,
            self.train_config.max_epochs * self.training_reader.order.num_steps,
            self.position.step,
            progress,
        )

    def train(self) -> None:
        """Trains to the last epoch or until the validation loss stops improving."""
        try:
            while not self._is_finished():
                batch = next(self.batches)
                sums = self._train_step(batch)
                self.telemetry.record(self.position.step + 1, self.position.epoch, sums)
                self._advance(batch)
                self._validate_if_due()
                self._save_if_due()
        finally:
            self.telemetry.close()

    def validation_sums(self) -> Tensor:
        """The [2, T] sums of weighted loss and weight over the validation split, of all ranks."""
        sums = torch.zeros(2, len(self.tasks), device=self.device)
        self.model.eval()
        with torch.no_grad():
            for table in self.validation_reader.batches(epoch=0):
                batch = collate(table, self.layout, self.validation_reader.rows_per_batch)
                sums += self.model(batch.to(self.device))[1]
        self.model.train()
        return sums

    def state(self) -> dict[str, Any]:
        """The tensors of a checkpoint."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()["state"]}

    def _train_step(self, batch: Batch) -> Tensor:
        every, step = self.train_config.inspect_every_steps, self.position.step
        is_inspected = every is not None and (step + 1) % every == 0
        batch = batch.to(self.device, non_blocking=True)
        sums = self.step(batch, step, self._learning_rate_factor(), with_gram=is_inspected)
        if is_inspected:
            assert self.step.gram_TT is not None
            seen = inspect_step(self.step.training_model, batch, self.step.weights, self.step.gram_TT)
            self.telemetry.write_inspection(step + 1, self.position.epoch, seen)
        return sums

    def _learning_rate_factor(self) -> float:
        if self.train_config.learning_rate_decay == "none":
            return 1.0
        return 1.0 - self.position.step / (self.train_config.max_epochs * self.training_reader.order.num_steps)

    def _training_batches(self) -> Iterator[Batch]:
        steps_per_epoch = self.training_reader.order.num_steps
        first_step = self.position.step_in_epoch
        for epoch in range(self.position.epoch, self.train_config.max_epochs):
            for step, table in enumerate(self.training_reader.batches(epoch, first_step), start=first_step + 1):
                position = (epoch, step) if step < steps_per_epoch else (epoch + 1, 0)
                yield collate(table, self.layout, self.training_reader.rows_per_batch, position)
            first_step = 0

    def _advance(self, batch: Batch) -> None:
        self.position.step += 1
        self.position.epoch, self.position.step_in_epoch = batch.position

    def _validate_if_due(self) -> None:
        every, step = self.train_config.validate_every_steps, self.position.step
        is_epoch_end = self.position.step_in_epoch == 0
        is_due = step % every == 0 if every else is_epoch_end
        self.validation_losses: dict[str, float] | None = None
        if not is_due and self.position.epoch < self.train_config.max_epochs:
            return
        epoch = self.position.epoch - is_epoch_end
        self.validation_losses, total = self.telemetry.write(step, epoch, "validation", self.validation_sums())
        self.validation_total = total
        stopping, best = self.train_config.early_stopping, self.position.best_validation_total
        if best is None or total < best - (stopping.min_improvement if stopping else 0.0):
            self.position.best_validation_total = total
            self.position.validations_without_improvement = 0
        else:
            self.position.validations_without_improvement += 1

    def _is_finished(self) -> bool:
        stopping = self.train_config.early_stopping
        is_stale = stopping and self.position.validations_without_improvement >= stopping.patience
        return self.position.epoch >= self.train_config.max_epochs or bool(is_stale)

    def _save_if_due(self) -> None:
        every = self.train_config.checkpoint_every_steps
        if self.validation_losses is None and not (every and self.position.step % every == 0):
            return
        manifest = checkpoint.CheckpointManifest(
            step=self.position.step,
            epoch=self.position.epoch,
            step_in_epoch=self.position.step_in_epoch,
            schema_fingerprint=self.index.schema_fingerprint,
            data_schema=self.index.data_schema,
            vocabulary_version=self.index.vocabulary_version,
            run_fingerprint=self.run_fingerprint,
            validation_losses=self.validation_losses,
            validation_total=self.validation_total if self.validation_losses is not None else None,
            best_validation_total=self.position.best_validation_total,
            validations_without_improvement=self.position.validations_without_improvement,
            is_finished=self._is_finished(),
        )
        folder = self.config.checkpoints_dir
        checkpoint.save_checkpoint(folder, self.state(), manifest)
        if dist.get_rank() == 0:
            checkpoint.prune(folder, self.train_config.keep_checkpoints)

    def _restore(self) -> Position:
        newest = checkpoint.list_checkpoints(self.config.checkpoints_dir)[-1:]
        if not newest:
            return Position()
        manifest = checkpoint.read_manifest(newest[0], verify=True)
        # Adam has no state before its first step, and what is not there is not restored.
        create_dense_state(self.optimizer)
        state = self.state()
        checkpoint.load_tensors(newest[0], state, is_distributed=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict({"state": state["optimizer"]})
        return Position(
            manifest.step,
            manifest.epoch,
            manifest.step_in_epoch,
            manifest.best_validation_total,
            manifest.validations_without_improvement,
        )

    def _reader(self, split: Split, *, shuffle: bool) -> ShardReader:
        shards = self.index.of_split(split)
        order = SampleOrder(
            tuple(shard.rows for shard in shards),
            self.train_config.num_lanes,
            self.train_config.global_batch_size // self.train_config.num_lanes,
            self.train_config.block_rows,
            self.train_config.window_blocks,
            self.config.seed,
            shuffle,
        )
        return ShardReader(self.config.dataset_dir, shards, order, dist.get_rank(), dist.get_world_size())
