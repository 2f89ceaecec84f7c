"""The evaluate stage: scores a split with a checkpoint, measures every task on its own rows, writes the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from models.tasks import JOINT_PREFIX, Task, chain_of, joint_label, own_output_names, space_mask
from pipeline.config import dump
from pipeline.errors import DataError
from pipeline.evaluate.metrics import Predictions
from pipeline.evaluate.page import render_html
from pipeline.evaluate.report import build_report, measure_task, write_report_json
from pipeline.executor import Progress
from pipeline.preprocess.config import SourceConfig
from pipeline.preprocess.formats import read_column_names
from pipeline.preprocess.sources import list_files, read_table
from pipeline.preprocess.statistics import read_statistics
from pipeline.run_config import RunConfig
from pipeline.shards.assignment import SampleOrder
from pipeline.shards.manifest import KEY_PREFIX, LABELS_COLUMN, check_schema
from pipeline.shards.reader import ShardReader
from pipeline.shards.remote import fetch_index, fetch_shards
from pipeline.train.checkpoints.checkpoint import best_checkpoint
from pipeline.train.predictor import Predictor
from pipeline.train.telemetry import read_history, read_inspections

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
SAMPLE_REQUESTS = 3
SAMPLE_ROWS_PER_REQUEST = 5


class Scored:
    """A whole split with its predictions, in memory: a few numbers per row."""

    def __init__(self, labels: NDArray[np.float64], keys: pa.Table, outputs: dict[str, NDArray[np.float64]]) -> None:
        self.label_NT = labels
        self.keys = keys
        self.outputs = outputs
        self.num_rows = len(labels)


def evaluate(config: RunConfig, *, checkpoint: Path | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """Writes report.json and report.html and returns the report.

    Raises:
        ArtifactError: the dataset or the checkpoint is missing, damaged or of another schema.
        DataError: the table of true values does not hold every row or every output.
    """
    index = fetch_index(config.dataset_dir, config.remote_dataset)
    check_schema(index, config.data_schema, config.dataset_dir)
    split = config.evaluate.split
    fetch_shards(config.dataset_dir, config.remote_dataset, index.of_split(split), progress)
    checkpoint = checkpoint or best_checkpoint(config.checkpoints_dir)
    predictor = Predictor(config, index, checkpoint, config.evaluate.batch_size)
    shards = index.of_split(split)
    order = SampleOrder(tuple(s.rows for s in shards), 1, config.evaluate.batch_size, 1 << 16, 1, 0, shuffle=False)
    scored = score_split(ShardReader(config.dataset_dir, shards, order), predictor, progress)
    tasks = predictor.model.tasks
    inspections = read_inspections(config.workspace_dir)
    report = build_report(
        title=config.workspace_dir.name,
        split=split,
        num_rows=scored.num_rows,
        checkpoint_step=predictor.manifest.step,
        checkpoint_path=str(checkpoint),
        schema_fingerprint=index.schema_fingerprint,
        tasks=measure(tasks, scored, _read_truth(config, tasks, scored)),
        mixtures=_mixtures(predictor, tasks),
        alarms=inspections[-1]["alarms"] if inspections else [],
        newer_values=predictor.newer_values.counts,
    )
    dump(config, config.report_dir)
    write_report_json(report, config.report_dir / REPORT_JSON)
    write_page(config, report)
    return report


def write_page(config: RunConfig, report: dict[str, Any]) -> Path:
    """Writes report.html from the report, what the training told and, where there are any, ranked candidates."""
    path = config.report_dir / REPORT_HTML
    history, inspections = read_history(config.workspace_dir), read_inspections(config.workspace_dir)
    statistics = read_statistics(config.dataset_dir) or None
    render_html(report, path, history, inspections, _ranked_sample(config), statistics)
    return path


def score_split(reader: ShardReader, predictor: Predictor, progress: Progress | None = None) -> Scored:
    """Every row of a split in file order with its labels, keys and predictions."""
    labels, keys, outputs = [], [], []
    num_rows, num_steps = 0, reader.order.num_steps
    if progress:
        progress("batches evaluated", 0, num_steps, 0, "rows")
    for step, table in enumerate(reader.batches(epoch=0), start=1):
        outputs.append(predictor.predict(table))
        flat = table[LABELS_COLUMN].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        labels.append(flat.astype(np.float64).reshape(table.num_rows, -1))
        keys.append(table.select([name for name in table.column_names if name.startswith(KEY_PREFIX)]))
        num_rows += table.num_rows
        if progress:
            progress("batches evaluated", step, num_steps, num_rows, "rows")
    joined = {name: np.concatenate([part[name] for part in outputs]) for name in outputs[0]}
    return Scored(np.concatenate(labels), pa.concat_tables(keys), joined)


def measure(
    tasks: Sequence[Task], scored: Scored, truth: dict[str, NDArray[np.float64]] | None
) -> list[dict[str, Any]]:
    """A report entry per task on its own sample space and, for conditional ones, per joint on all impressions.

    `truth` holds the true value of every row for each of a task's own outputs, by the output's name.
    """
    label_NT = torch.from_numpy(scored.label_NT)
    mask_NT = space_mask(tasks, label_NT).numpy()
    group = _group(scored)
    entries = []
    for place, task in enumerate(tasks):
        rows = mask_NT[:, place]
        own_truth = None if truth is None else _own_values(task, truth)
        own = _select(_own_values(task, scored.outputs), scored.label_NT[:, place], group, own_truth, rows)
        entries.append(measure_task(task.name, task.kind, own, space=task.space))
        if task.kind == "binary" and task.space is not None:
            name = JOINT_PREFIX + task.name
            chain = chain_of(tasks, task)
            target, known = (tensor.numpy() for tensor in joint_label(label_NT[:, chain]))
            joint_truth = None if truth is None else np.prod([truth[tasks[link].name] for link in chain], axis=0)
            joint = _select(scored.outputs[name], target, group, joint_truth, known)
            entries.append(measure_task(name, "binary", joint, space=task.space, scope="all impressions"))
    return entries


def _own_values(task: Task, values: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """What belongs to a task on its own space: a value per row or, for several classes, per row and class."""
    names = own_output_names(task)
    return np.stack([values[name] for name in names], axis=1) if task.kind == "multiclass" else values[names[0]]


def _select(
    prediction: NDArray[np.float64],
    label: NDArray[np.float64],
    group: NDArray[Any] | None,
    truth: NDArray[np.float64] | None,
    rows: NDArray[np.bool_],
) -> Predictions:
    return Predictions(
        prediction[rows],
        label[rows].astype(np.float64),
        None if group is None else group[rows],
        None if truth is None else truth[rows],
    )


def _group(scored: Scored) -> NDArray[Any] | None:
    """The user of each row: a number, or the user key itself, None where a row has no user."""
    name = KEY_PREFIX + "user"
    if name not in scored.keys.column_names:
        return None
    column = scored.keys[name].combine_chunks()
    if pa.types.is_integer(column.type) and not column.null_count:
        return np.asarray(column)
    return np.array(column.to_pylist(), dtype=object)


def _read_truth(config: RunConfig, tasks: Sequence[Task], scored: Scored) -> dict[str, NDArray[np.float64]] | None:
    """The true probability or expected value of every row, by output, in the order of the rows."""
    if config.evaluate.truth is None:
        return None
    section = config.evaluate.truth
    source = SourceConfig(path=config.input_path(section.path))
    file = list_files(source)[0]
    present = read_column_names(source, file)
    task_of = {name: task.name for task in tasks for name in own_output_names(task)}
    missing = [f"{name!r} (task {task!r})" for name, task in task_of.items() if name not in present]
    if missing:
        raise DataError(
            f"{file} has no column {', '.join(missing)}",
            "add the true values of these tasks, or remove evaluate.truth",
        )
    table = read_table(source, [section.key, *task_of])
    places = pc.index_in(scored.keys[KEY_PREFIX + "row"], table[section.key].combine_chunks())
    if places.null_count:
        raise DataError(
            f"{source.path} has no true value for {places.null_count:,} of {scored.num_rows:,} rows",
            "give the truth that was written beside this log, or remove evaluate.truth",
        )
    return {name: np.asarray(table[name].take(places), np.float64) for name in task_of}


def _mixtures(predictor: Predictor, tasks: Sequence[Task]) -> dict[str, Any]:
    """The mean weight of each expert for each task over the split, by level, as `build_report` takes it."""
    return {
        level: {
            "tasks": [task.name for task in tasks],
            "experts": mixture["experts"],
            "mean_weight": [[None if np.isnan(w) else w for w in row] for row in mixture["mean_weight"].tolist()],
        }
        for level, mixture in predictor.mean_mixtures().items()
    }


def _ranked_sample(config: RunConfig) -> dict[str, Any] | None:
    """The first rows of the first requests of the ranked candidates."""
    parts = sorted(config.scores_dir.glob("part-*.parquet"))
    if not parts:
        return None
    table = next(pq.ParquetFile(parts[0]).iter_batches(batch_size=10_000), None)
    if table is None or not table.num_rows:
        return None
    request = np.asarray(pc.rank(table.column(0), tiebreaker="dense"))
    first_requests = np.asarray(list(dict.fromkeys(request.tolist()))[:SAMPLE_REQUESTS])
    shown = np.isin(request, first_requests) & (np.asarray(table["rank"]) <= SAMPLE_ROWS_PER_REQUEST)
    sample = table.filter(pa.array(shown))
    columns = [column.to_pylist() for column in sample.columns]
    return {"columns": sample.schema.names, "rows": [list(row) for row in zip(*columns, strict=True)]}
