"""The evaluate stage: scores a split or reads a finished table, measures each task on its rows, makes the report."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import dump
from pipeline.evaluate.diagnostics.diagnose import SAMPLE_ROWS, diagnose
from pipeline.evaluate.diagnostics.sample import sample_rows
from pipeline.evaluate.dimensions import check_slices
from pipeline.evaluate.finished_table import open_finished_table
from pipeline.evaluate.measure.measure import Measurement, measure
from pipeline.evaluate.page.page import render_html
from pipeline.evaluate.prediction_table import PredictionTable
from pipeline.evaluate.report.form import report_schema
from pipeline.evaluate.report.report import build_report, write_report_json
from pipeline.evaluate.scoring import PREDICTIONS_FOLDER, Scorer, read_finished_table, score_split
from pipeline.evaluate.slices import Slicer
from pipeline.executor import Executor, InProcessExecutor, Progress, counted
from pipeline.files import write_json
from pipeline.preprocess.profiles.statistics import read_statistics
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import DatasetIndex, check_schema
from pipeline.shards.remote import fetch_index, fetch_shards
from pipeline.train.checkpoints.checkpoint import best_checkpoint, read_manifest
from pipeline.train.telemetry import read_history, read_inspections

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
SCHEMA_JSON = "report.schema.json"
SAMPLE_REQUESTS = 3
SAMPLE_ROWS_PER_REQUEST = 5


def check_evaluate(config: RunConfig) -> None:
    """Checks what can be checked of a configuration before any work is done.

    Raises:
        ConfigError: a slice cannot be made.
        ArtifactError: the checkpoint to compare with is not there.
    """
    check_slices(config.data_schema, config.evaluate.slices)
    if config.evaluate.baseline:
        read_manifest(Path(config.evaluate.baseline))


def evaluate(
    config: RunConfig,
    executor: Executor | None = None,
    *,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measures a checkpoint on a split, writes report.json and report.html and returns the report.

    An evaluation that was interrupted goes on where it stopped. The same checkpoint, data and configuration give the
    same report, whatever the executor; the default one is this process.

    Raises:
        ConfigError: a slice cannot be made.
        ArtifactError: the dataset or a checkpoint is missing, damaged or of another schema.
        DataError: the table of true values does not hold every row or every output.
    """
    executor = executor or InProcessExecutor()
    index = fetch_index(config.dataset_dir, config.remote_dataset)
    check_schema(index, config.data_schema, config.dataset_dir)
    fetch_shards(config.dataset_dir, config.remote_dataset, index.of_split(config.evaluate.split), progress)
    checkpoint = checkpoint or best_checkpoint(config.checkpoints_dir)
    table, slicer = score_split(config, index, checkpoint, executor, progress)
    measurement = _measure(config, table, executor, progress)
    load = partial(Scorer, config, index, checkpoint, None)
    examine = partial(_examine, config, index, slicer)
    examined = executor.map_with(load, examine, [table])
    (diagnostics,) = counted(examined, "model examined", 1, lambda one: int(one["rows"]), progress)
    inspections = read_inspections(config.workspace_dir)
    baseline = Path(config.evaluate.baseline) if config.evaluate.baseline else None
    report = build_report(
        measurement,
        title=config.workspace_dir.name,
        split=config.evaluate.split,
        model=_describe_model(checkpoint),
        baseline=_describe_model(baseline) if baseline else None,
        schema_fingerprint=index.schema_fingerprint,
        mixtures=_mixtures(table),
        alarms=inspections[-1]["alarms"] if inspections else [],
        newer_values=table.summary.newer_values,
        diagnostics=diagnostics,
    )
    _write(config, report)
    write_page(config, report)
    shutil.rmtree(config.report_dir / PREDICTIONS_FOLDER)
    return report


def evaluate_table(
    config: RunConfig, executor: Executor | None = None, *, progress: Progress | None = None
) -> dict[str, Any]:
    """The same of the finished table that `evaluate.predictions` names; needs no dataset and no checkpoint.

    Raises:
        ConfigError: the configuration names a column that is not needed, or a slice cannot be made.
        DataError: the table cannot be read, lacks a column, or holds a value that cannot be used.
    """
    executor = executor or InProcessExecutor()
    finished = open_finished_table(config)
    table = read_finished_table(config, finished, executor, progress)
    source = {"step": None, "path": finished.source.path}
    report = build_report(
        _measure(config, table, executor, progress),
        title=Path(finished.source.path).name,
        split="finished table",
        model=source,
        baseline=source if table.has_baseline else None,
        schema_fingerprint=config.data_schema.fingerprint(),
        mixtures={},
        alarms=[],
        newer_values={},
        diagnostics=diagnose(table),
    )
    _write(config, report)
    render_html(report, config.report_dir / REPORT_HTML, [], [], None)
    shutil.rmtree(config.report_dir / PREDICTIONS_FOLDER)
    return report


def _write(config: RunConfig, report: dict[str, Any]) -> None:
    dump(config, config.report_dir)
    write_json(config.report_dir / SCHEMA_JSON, report_schema())
    write_report_json(report, config.report_dir / REPORT_JSON)


def write_page(config: RunConfig, report: dict[str, Any]) -> Path:
    """Writes report.html from the report, what the training told and, where there are any, ranked candidates."""
    path = config.report_dir / REPORT_HTML
    history, inspections = read_history(config.workspace_dir), read_inspections(config.workspace_dir)
    statistics = read_statistics(config.dataset_dir) or None
    render_html(report, path, history, inspections, _ranked_sample(config), statistics)
    return path


def _measure(config: RunConfig, table: PredictionTable, executor: Executor, progress: Progress | None) -> Measurement:
    section = config.evaluate
    return measure(
        table.parts,
        table.measured,
        table.dimensions,
        executor,
        num_replicates=section.num_replicates,
        k=section.k,
        min_slice_rows=section.min_slice_rows,
        progress=progress,
    )


def _examine(
    config: RunConfig, index: DatasetIndex, slicer: Slicer, scorer: Scorer, table: PredictionTable
) -> dict[str, Any]:
    section = config.evaluate
    shards = index.of_split(section.split)
    rows = sample_rows(config.dataset_dir, shards, section.importance_rows or SAMPLE_ROWS, config.seed)
    return diagnose(
        table,
        scorer.predictor,
        rows,
        slices=slicer.slice(rows),
        has_importance=section.importance_rows > 0,
        weighted=section.weighted,
        seed=config.seed,
    )


def _describe_model(checkpoint: Path) -> dict[str, Any]:
    return {"step": read_manifest(checkpoint).step, "path": str(checkpoint)}


def _mixtures(table: PredictionTable) -> dict[str, Any]:
    """The mean weight of each expert for each task over the split, by level, as `build_report` takes it."""
    tasks = [one.name for one in table.measured if one.scope == "own space"]
    return {level: {"tasks": tasks, **mixture} for level, mixture in table.summary.mixtures.items()}


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
