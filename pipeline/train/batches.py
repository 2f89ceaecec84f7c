"""The batches of a run: those of the training split from any position on, and those of the validation split."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch.distributed as dist

from models.batch import Batch
from pipeline.assemble import table_rows
from pipeline.run_config import RunConfig
from pipeline.shards.assignment import SampleOrder
from pipeline.shards.collate import Layout, collate
from pipeline.shards.manifest import KEY_PREFIX, DatasetIndex, Split
from pipeline.shards.reader import ShardReader
from pipeline.train.telemetry import forget_after

ROW_COLUMN = f"{KEY_PREFIX}row"
ROWS_FOLDER = "rows"


class Batches:
    """This rank's share of every global batch. Needs a process group."""

    def __init__(self, config: RunConfig, index: DatasetIndex) -> None:
        self.config = config
        self.index = index
        self.max_epochs = config.train.max_epochs
        self.layout = Layout.of(index.data_schema, table_rows(index, config.model))
        self.training_reader = self._reader("train", shuffle=True)
        self.validation_reader = self._reader("validation", shuffle=False)
        self.rows_per_rank = self.training_reader.rows_per_batch
        self.steps_per_epoch = self.training_reader.order.num_steps
        self._unwritten: dict[tuple[int, int], list[object]] = {}
        self._rows_path = config.workspace_dir / ROWS_FOLDER / f"rank-{dist.get_rank():05d}.jsonl"

    @property
    def num_steps(self) -> int:
        """Steps of the whole run, if nothing stops it early."""
        return self.max_epochs * self.steps_per_epoch

    def samples_after(self, step: int) -> int:
        """Rows that the first `step` steps of the run train: the last batch of an epoch may be short."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        return epochs * self.index.num_rows("train") + steps * self.config.train.global_batch_size

    def training(self, epoch: int, step_in_epoch: int) -> Iterator[Batch]:
        """The batches from a position to the end of the last epoch, each with the position after it."""
        for current in range(epoch, self.max_epochs):
            tables = self.training_reader.batches(current, step_in_epoch)
            for step, table in enumerate(tables, start=step_in_epoch + 1):
                position = (current, step) if step < self.steps_per_epoch else (current + 1, 0)
                if self.config.train.record_rows:
                    self._unwritten[position] = table[ROW_COLUMN].to_pylist()
                yield collate(table, self.layout, self.rows_per_rank, position)
            step_in_epoch = 0

    def validation(self) -> Iterator[Batch]:
        for table in self.validation_reader.batches(epoch=0):
            yield collate(table, self.layout, self.validation_reader.rows_per_batch)

    def record_rows(self, step: int, batch: Batch) -> None:
        """Writes down the row keys of a batch that was trained, if the configuration asks for it."""
        if not self.config.train.record_rows:
            return
        record = {"step": step, "rows": self._unwritten.pop(batch.position)}
        with open(self._rows_path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record, default=str) + "\n")

    def forget_rows_after(self, step: int) -> None:
        """Drops the row keys of steps that a resumed run will do again, on all ranks of the earlier attempt."""
        if not self.config.train.record_rows:
            return
        if dist.get_rank() == 0:
            self._rows_path.parent.mkdir(parents=True, exist_ok=True)
            for path in self._rows_path.parent.glob("rank-*.jsonl"):
                forget_after(path, step)
        dist.barrier()

    def _reader(self, split: Split, *, shuffle: bool) -> ShardReader:
        shards = self.index.of_split(split)
        settings = self.config.train
        order = SampleOrder(
            tuple(shard.rows for shard in shards),
            settings.num_lanes,
            settings.global_batch_size // settings.num_lanes,
            settings.block_rows,
            settings.window_blocks,
            self.config.seed,
            shuffle,
        )
        return ShardReader(self.config.dataset_dir, shards, order, dist.get_rank(), dist.get_world_size())


def read_rows(workspace: Path) -> dict[int, list[object]]:
    """The row keys that each step trained, in the order of the global batch, from the records of all ranks."""
    steps: dict[int, list[object]] = {}
    for path in sorted((workspace / ROWS_FOLDER).glob("rank-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            steps.setdefault(record["step"], []).extend(record["rows"])
    return steps
