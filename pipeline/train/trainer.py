"""One rank's training: set-up in the one order that works, and the loop."""

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from models.batch import Batch
from models.tasks import Task
from pipeline.assemble import build_model, make_balancer, make_head
from pipeline.errors import StoppedError
from pipeline.executor import Progress
from pipeline.files import write_text
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import DatasetIndex
from pipeline.train.batches import Batches
from pipeline.train.checkpoints.checkpoint import CheckpointManifest
from pipeline.train.checkpoints.lineage import describe_vocabularies, digest_numbers
from pipeline.train.checkpoints.resume import Position, resume, start_warm
from pipeline.train.checkpoints.writer import CheckpointWriter
from pipeline.train.compiled import compile_dense
from pipeline.train.distribute import distribute
from pipeline.train.guards.loss_watch import LossWatch
from pipeline.train.guards.roll_call import RollCall
from pipeline.train.guards.stopping import Signals
from pipeline.train.guards.watchdog import Watchdog
from pipeline.train.inspection import inspect_step
from pipeline.train.optimizers import create_state, optimizer_tensors
from pipeline.train.prefetch import prefetched
from pipeline.train.step import OverlappedStep, TrainingStep
from pipeline.train.telemetry import Telemetry
from pipeline.train.training_model import TrainingModel

PLAN_NAME = "plan.txt"
STACKS_FOLDER = "stacks"


class Trainer:
    """Trains on one rank of an initialised process group; all ranks run the same code in step.

    With `fallback` a damaged newest checkpoint is set aside, and the one before it is used.
    """

    def __init__(
        self,
        config: RunConfig,
        index: DatasetIndex,
        run_fingerprint: str,
        device: torch.device,
        *,
        fallback: bool = False,
        signals: Signals | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.config = config
        self.settings = config.train
        self.index = index
        self.run_fingerprint = run_fingerprint
        self.device = device
        self.fallback = fallback
        self.signals = signals or Signals()
        self.batches = Batches(config, index)

        # 1. The ranks' own groups, and a name for this attempt that they share.
        self.roll_call = RollCall(self.settings.collective_timeout_seconds)
        self.writer = CheckpointWriter(
            config.checkpoints_dir,
            keep=self.settings.keep_checkpoints,
            in_background=self.settings.checkpoint_in_background,
            attempt=self.roll_call.share(os.urandom(4).hex()),
        )
        # 2. The model: tables on meta, dense layers drawn from the seed. 3. Sharded, with its optimizers. 4. The step.
        training_model = self._build()
        distributed = distribute(
            training_model,
            self.settings,
            device,
            config.seed,
            self.batches.rows_per_rank,
            index.data_schema.max_ids_per_row,
        )
        self.model, self.optimizer = distributed.model, distributed.optimizer
        self.step = TrainingStep(self.model, training_model, self.optimizer, self.settings, self.batches.num_steps)
        self.overlapped = OverlappedStep(self.step, device) if self._is_overlapped() else None
        # 5. What an earlier attempt, or an earlier run, reached. 6. Records from there on.
        self.vocabularies = describe_vocabularies(index, config.dataset_dir)
        self.numbers = digest_numbers(index, config.dataset_dir)
        self.position = self._restore()
        self.saved_step = self.position.step
        self.losses = LossWatch(
            [task.name for task in self.tasks], self.batches.steps_per_epoch, self.writer.newest, device
        )
        self.training_batches = self.batches.training(self.position.epoch, self.position.step_in_epoch)
        if device.type == "cuda":
            self.training_batches = prefetched(self.training_batches)
        self.batches.forget_rows_after(self.position.step)
        if dist.get_rank() == 0:
            write_text(config.workspace_dir / PLAN_NAME, distributed.plan)
        self.telemetry = Telemetry(
            config.workspace_dir,
            [task.name for task in self.tasks],
            [task.weight for task in self.tasks],
            self.settings.log_every_steps,
            self.batches.num_steps,
            self.batches.samples_after,
            self.position.step,
            progress,
        )
        self.watchdog = Watchdog(
            self.settings.watchdog_seconds, config.workspace_dir / STACKS_FOLDER / f"rank-{dist.get_rank():05d}.txt"
        )

    def train(self) -> None:
        """Trains to the last epoch or until the validation loss stops improving.

        Raises:
            StoppedError: a stop was asked for; there is a checkpoint of the last step.
            TrainingError: a loss is not a number, or a rank does not answer.
        """
        try:
            with self.watchdog:
                while not self._is_finished():
                    self._stop_if_asked()
                    batch, sums = self._train_step()
                    self._note(batch, sums)
                    self._validate_if_due()
                    self._save_if_due()
                    self.watchdog.beat()
                self.writer.wait()
        except Exception as error:
            explained = self.roll_call.explain(error, self.position.step + 1)
            if explained is None:
                raise
            raise explained from error
        finally:
            self.telemetry.close()

    def validation_sums(self) -> Tensor:
        """The [2, T] sums of weighted loss and weight over the validation split, of all ranks."""
        sums = torch.zeros(2, len(self.tasks), device=self.device)
        if self.overlapped is not None:
            self.overlapped.detach()
        self.model.eval()
        with torch.no_grad():
            for batch in self.batches.validation():
                sums += self.model(batch.to(self.device))[1]
                self.watchdog.beat()
        self.model.train()
        return sums

    def state(self) -> dict[str, Any]:
        """The tensors of a checkpoint, to be read or to be filled in place."""
        return {"model": self.model.state_dict(), "optimizer": optimizer_tensors(self.optimizer)}

    # --- set-up

    def _build(self) -> TrainingModel:
        model = build_model(self.index, self.config.model, self.config.seed, torch.device("meta"))
        self.tasks: tuple[Task, ...] = model.tasks
        tasks = list(model.tasks)
        if self.settings.compile:
            compile_dense(model)
        return TrainingModel(
            model,
            make_head(self.config.model, tasks),
            make_balancer(self.config.model, tasks),
            micro_batch_rows=self.settings.micro_batch_rows,
            is_bfloat16=self.settings.precision == "bfloat16",
        )

    def _is_overlapped(self) -> bool:
        if self.settings.pipeline == "auto":
            # Such a balancer looks at the same batch twice.
            return self.device.type == "cuda" and not self.step.training_model.balancer.needs_losses_after
        return self.settings.pipeline == "sparse_dist"

    def _restore(self) -> Position:
        # What is not there is not restored: Adam makes its state at its first step.
        create_state(self.optimizer)
        state = self.state()
        position = resume(self.config.checkpoints_dir, state, self.roll_call, fallback=self.fallback)
        if position is None and self.settings.warm_start is not None:
            table_of = self.step.training_model.model.front_end.table_of
            start_warm(self.config, state, table_of, self.index, self.roll_call)
        # The tensors are filled in place; this is for tables whose kernel keeps a cache of them.
        self.model.load_state_dict(state["model"])
        return position or Position()

    # --- the parts of the loop

    def _train_step(self) -> tuple[Batch, Tensor]:
        every, step = self.settings.inspect_every_steps, self.position.step
        is_inspected = every is not None and (step + 1) % every == 0
        if self.overlapped is not None:
            batch, sums = self.overlapped.train(self.training_batches, step, with_gram=is_inspected)
        else:
            batch = next(self.training_batches).to(self.device, non_blocking=True)
            sums = self.step(batch, step, with_gram=is_inspected)
        if is_inspected:
            assert self.step.gram_TT is not None
            seen = inspect_step(self.step.training_model, batch, self.step.weights, self.step.gram_TT)
            self.telemetry.write_inspection(step + 1, self.position.epoch, seen)
        return batch, sums

    def _note(self, batch: Batch, sums: Tensor) -> None:
        """Counts a trained step and keeps its losses."""
        self.position.step += 1
        step = self.position.step
        self.losses.note(step, sums)
        if step % self.settings.log_every_steps == 0:
            self.losses.check()
        self.telemetry.record(step, self.position.epoch, sums)
        self.batches.record_rows(step, batch)
        self.position.epoch, self.position.step_in_epoch = batch.position

    def _validate_if_due(self) -> None:
        every, step = self.settings.validate_every_steps, self.position.step
        is_epoch_end = self.position.step_in_epoch == 0
        is_due = step % every == 0 if every else is_epoch_end
        self.validation_losses: dict[str, float] | None = None
        if not is_due and self.position.epoch < self.settings.max_epochs:
            return
        self.losses.check()
        epoch = self.position.epoch - is_epoch_end
        self.validation_losses, total = self.telemetry.write(step, epoch, "validation", self.validation_sums())
        self.validation_total = total
        stopping, best = self.settings.early_stopping, self.position.best_validation_total
        if best is None or total < best - (stopping.min_improvement if stopping else 0.0):
            self.position.best_validation_total = total
            self.position.validations_without_improvement = 0
        else:
            self.position.validations_without_improvement += 1

    def _is_finished(self) -> bool:
        stopping = self.settings.early_stopping
        is_stale = stopping and self.position.validations_without_improvement >= stopping.patience
        return self.position.epoch >= self.settings.max_epochs or bool(is_stale)

    def _save_if_due(self) -> None:
        every, step = self.settings.checkpoint_every_steps, self.position.step
        is_due = self.validation_losses is not None or (every is not None and step % every == 0)
        # Looking for a preemption waits for all ranks.
        if is_due or (step % self.settings.log_every_steps == 0 and self.signals.is_preempted()):
            self._save()

    def _save(self) -> None:
        self.losses.check()
        manifest = CheckpointManifest(
            step=self.position.step,
            epoch=self.position.epoch,
            step_in_epoch=self.position.step_in_epoch,
            attempt=self.writer.attempt,
            num_ranks=dist.get_world_size(),
            schema_fingerprint=self.index.schema_fingerprint,
            data_schema=self.index.data_schema,
            vocabulary_version=self.index.vocabulary_version,
            vocabularies=self.vocabularies,
            numbers=self.numbers,
            run_fingerprint=self.run_fingerprint,
            validation_losses=self.validation_losses,
            validation_total=self.validation_total if self.validation_losses is not None else None,
            best_validation_total=self.position.best_validation_total,
            validations_without_improvement=self.position.validations_without_improvement,
            is_finished=self._is_finished(),
        )
        state = self.state()
        self.losses.check_state(self.position.step, state, self.roll_call)
        self.writer.save(state, manifest)
        self.saved_step = self.position.step

    def _stop_if_asked(self) -> None:
        if not self.roll_call.is_any(self.signals.is_stop_requested()):
            return
        if self.saved_step != self.position.step:
            self.validation_losses = None
            self._save()
        self.writer.wait()
        raise StoppedError(
            f"training was stopped after step {self.position.step} of at most {self.batches.num_steps}; "
            "its checkpoint is complete",
            "go on with --resume, which `retrain` does unasked",
        )
