"""What an export's types cost: the metrics of each task on a split, by the checkpoint and by the export."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.evaluate.measure.measure import measure
from pipeline.evaluate.prediction_table import Impressions, measured_things, write_part
from pipeline.evaluate.scoring import SplitPiece, plan_pieces, read_batches
from pipeline.executor import InProcessExecutor, Progress, counted
from pipeline.export.serving import BATCH_ROWS, Serving
from pipeline.feature_kinds import UNSEEN_ROW, ListFeature
from pipeline.preprocess.transform import as_lists
from pipeline.run_config import RunConfig
from pipeline.schema import Schema
from pipeline.shards.manifest import KEY_PREFIX, LABELS_COLUMN, SPARSE_PREFIX, ShardEntry
from pipeline.train.predictor import Predictor

# What is kept of each task's metrics, where its kind has them.
METRICS = ("auc", "log_loss", "mae", "calibration")


def as_known(rows: pa.Table, schema: Schema, table_rows: Mapping[str, int]) -> pa.Table:
    """Encoded rows of a dataset with the values that are newer than the model as unseen ones."""
    for feature in schema.sparse_features:
        name = SPARSE_PREFIX + feature.name
        column = rows[name].combine_chunks()
        ids = column.flatten() if isinstance(feature, ListFeature) else column
        known = pc.if_else(pc.less(ids, table_rows[feature.table_name]), ids, pa.scalar(UNSEEN_ROW, ids.type))
        if isinstance(feature, ListFeature):
            known = as_lists(known, np.diff(column.offsets))
        rows = rows.set_column(rows.schema.get_field_index(name), name, known)
    return rows


def measure_quality(
    config: RunConfig, shards: Sequence[ShardEntry], predictor: Predictor, serving: Serving, progress: Progress | None
) -> list[dict[str, Any]]:
    """Of each measured thing its name, the largest change of one of its outputs and, by metric, the value of the
    checkpoint and of the export, and the change with its 95 % interval.
    """
    largest: dict[str, float] = {}
    things = measured_things(config.data_schema.tasks)
    pieces = plan_pieces(shards, BATCH_ROWS)
    with tempfile.TemporaryDirectory(dir=config.workspace_dir, prefix=".export-") as scratch:
        parts = [Path(scratch) / f"part-{number:05d}.arrow" for number in range(len(pieces))]
        scored = (_score(config, piece, predictor, serving) for piece in pieces)
        for part, rows in zip(parts, counted(scored, "parts scored", len(parts), _num_rows, progress), strict=True):
            for name, before in rows.baseline.items():
                change = float(np.abs(rows.predictions[name] - before).max())
                largest[name] = max(largest.get(name, 0.0), change)
            write_part(part, rows, config.data_schema.keys)
        section = config.evaluate
        measured = measure(
            parts,
            things,
            (),
            InProcessExecutor(),
            num_replicates=section.num_replicates,
            k=section.k,
            progress=progress,
        )
    return [
        {
            "task": thing.name,
            "largest_change": max(largest[name] for name in thing.outputs),
            "metrics": {name: _describe(task["metrics"][name]) for name in METRICS if name in task["metrics"]},
        }
        for thing, task in zip(things, measured.tasks, strict=True)
    ]


def _num_rows(rows: Impressions) -> int:
    return len(rows.weight)


def _score(config: RunConfig, piece: SplitPiece, predictor: Predictor, serving: Serving) -> Impressions:
    """The rows of a piece with what the export predicts for them and, as the baseline, the checkpoint."""
    schema = config.data_schema
    rows = pa.concat_tables(read_batches(config.dataset_dir, piece, BATCH_ROWS))
    tasks = [task.name for task in schema.tasks]
    flat = rows[LABELS_COLUMN].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return Impressions(
        piece.first_row,
        {name.removeprefix(KEY_PREFIX): rows[name] for name in rows.column_names if name.startswith(KEY_PREFIX)},
        np.ones(rows.num_rows),
        dict(zip(tasks, flat.astype(np.float64).reshape(-1, len(tasks)).T, strict=True)),
        serving.predict(as_known(rows, schema, serving.manifest.table_rows)),
        predictor.predict(rows),
    )


def _describe(metric: Mapping[str, Any]) -> dict[str, Any]:
    names = {"before": "baseline", "after": "value"} | {
        f"change{end}": f"difference{end}" for end in ("", "_low", "_high")
    }
    return {name: metric[theirs] for name, theirs in names.items()}


def quality_rows(quality: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The headers and rows of a table that shows what `measure_quality` gave."""
    headers = ["task", "metric", "checkpoint", "export", "change", "largest change of an output"]
    rows = []
    for task in quality:
        for name, metric in task["metrics"].items():
            numbers = [metric["before"], metric["after"], metric["change"], task["largest_change"]]
            shown = ["-" if number is None else f"{number:.5g}" for number in numbers]
            rows.append([task["task"], name.replace("_", " "), *shown])
    return headers, rows
