"""The test split of a trained run, scored, and the same run with other settings of its evaluation."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.evaluate.prediction_table import PredictionTable, map_part
from pipeline.evaluate.scoring import score_split
from pipeline.executor import Executor, InProcessExecutor
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import read_index
from pipeline.train.checkpoints.checkpoint import best_checkpoint


def score(config: RunConfig, executor: Executor | None = None, checkpoint: Path | None = None) -> PredictionTable:
    index = read_index(config.dataset_dir)
    checkpoint = checkpoint or best_checkpoint(config.checkpoints_dir)
    return score_split(config, index, checkpoint, executor or InProcessExecutor(2), None)[0]


def rows_of(table: PredictionTable) -> pa.Table:
    return pa.Table.from_batches(map(map_part, table.parts))


def other_settings(config: RunConfig, **changes: Any) -> RunConfig:
    section = config.evaluate.model_validate(config.evaluate.model_dump() | changes)
    return config.model_copy(update={"evaluate": section})
