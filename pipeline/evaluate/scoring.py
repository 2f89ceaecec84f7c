"""Scoring: the rows of a split, or of a finished table, become the parts of a prediction table, piece by piece.

A part is there whole or not at all, and a restart makes those that are missing. Parts of other work (of another
checkpoint, dataset, configuration or table) are removed.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import RESOLVED_NAME, build, read_config
from pipeline.evaluate.dimensions import check_slices, open_dimensions
from pipeline.evaluate.finished_table import FinishedTable, TablePiece
from pipeline.evaluate.prediction_table import (
    Impressions,
    PartSummary,
    PredictionTable,
    measured_things,
    read_summary,
    write_part,
)
from pipeline.evaluate.slices import Dimension, Slicer, Survey
from pipeline.evaluate.truth import Truth, open_truth
from pipeline.executor import Executor, Progress, counted
from pipeline.files import write_text
from pipeline.preprocess.config import SourceConfig
from pipeline.preprocess.raw_files.sources import describe_files, list_files
from pipeline.preprocess.transform import FittedTransform
from pipeline.run_config import RunConfig
from pipeline.shards.assignment import Piece, SampleOrder
from pipeline.shards.manifest import KEY_PREFIX, LABELS_COLUMN, WEIGHT_COLUMN, DatasetIndex, ShardEntry
from pipeline.shards.reader import ShardReader
from pipeline.train.checkpoints.checkpoint import read_manifest
from pipeline.train.checkpoints.lineage import check_lineage
from pipeline.train.config import ModelConfig
from pipeline.train.predictor import Predictor

PREDICTIONS_FOLDER = ".predictions"
WORK_NAME = "work.json"
FORMAT = 1
# A split has about so many parts, for the workers to share, and each at most so many rows.
NUM_PARTS = 64
MAX_PART_ROWS = 1 << 18
# Settings that change no part.
MEASURED_LATER = {"num_replicates", "k", "min_slice_rows", "importance_rows"}
# Rows whose slices are looked at together.
SURVEY_ROWS = 1 << 16


class SplitPiece(NamedTuple):
    """Neighbouring rows of a shard; `first_row` is the place of the first one among all rows of the split."""

    shard: ShardEntry
    first_in_shard: int
    num_rows: int
    first_row: int


def plan_pieces(shards: Sequence[ShardEntry], batch_size: int) -> list[SplitPiece]:
    """The pieces of a split, each of whole batches but for the end of a shard; a function of nothing else."""
    wanted = min(-(-sum(shard.rows for shard in shards) // NUM_PARTS), MAX_PART_ROWS)
    piece_rows = -(-wanted // batch_size) * batch_size
    pieces, first_row = [], 0
    for shard in shards:
        for first in range(0, shard.rows, piece_rows):
            pieces.append(SplitPiece(shard, first, min(piece_rows, shard.rows - first), first_row + first))
        first_row += shard.rows
    return pieces


def read_batches(dataset_dir: Path, piece: SplitPiece, batch_size: int) -> Iterator[pa.Table]:
    """The encoded rows of a piece, so many at a time."""
    order = SampleOrder((piece.shard.rows,), 1, batch_size, batch_size, 1, 0, shuffle=False)
    reader = ShardReader(dataset_dir, [piece.shard], order)
    for first in range(0, piece.num_rows, batch_size):
        num_rows = min(batch_size, piece.num_rows - first)
        yield reader.read([Piece(0, piece.first_in_shard + first, num_rows)])


class Scorer:
    """What a worker holds: the model and, if there is one, the model to compare with."""

    def __init__(self, config: RunConfig, index: DatasetIndex, checkpoint: Path, baseline: Path | None) -> None:
        batch_size, is_bfloat16 = config.evaluate.batch_size, config.evaluate.precision == "bfloat16"
        self.predictor = Predictor(config, index, checkpoint, batch_size, is_bfloat16=is_bfloat16)
        self.baseline = None
        if baseline is not None:
            own = _with_model_of(config, baseline)
            self.baseline = Predictor(own, index, baseline, batch_size, is_bfloat16=is_bfloat16)


def _with_model_of(config: RunConfig, checkpoint: Path) -> RunConfig:
    """The configuration with the model that a checkpoint's own run had, where that is known."""
    path = checkpoint.parent.parent / RESOLVED_NAME
    if not path.is_file():
        return config
    return config.model_copy(update={"model": build(ModelConfig, read_config(path).get("model") or {}, str(path))})


@dataclass(frozen=True)
class PartWriter:
    """Makes the parts of a table in a folder; every worker has one."""

    folder: Path
    config: RunConfig
    slicer: Slicer
    truth: Truth | None

    def path(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.arrow"

    def write_scored(self, scorer: Scorer, numbered: tuple[int, SplitPiece]) -> int:
        """Scores a piece of the split and returns its number of rows."""
        (number, piece), predictor = numbered, scorer.predictor
        predictor.forget()
        first_row, batches = piece.first_row, []
        for table in read_batches(self.config.dataset_dir, piece, self.config.evaluate.batch_size):
            batches.append(self._score(scorer, table, first_row, piece.shard.path))
            first_row += table.num_rows
        mixtures = {
            level: {**mixture, "mean_weight": _without_nan(mixture["mean_weight"])}
            for level, mixture in predictor.mean_mixtures().items()
        }
        counts = predictor.newer_values.counts
        return self._write(number, Impressions.concatenate(batches), mixtures=mixtures, newer_values=counts)

    def _score(self, scorer: Scorer, table: pa.Table, first_row: int, source: str) -> Impressions:
        tasks = [task.name for task in self.config.data_schema.tasks]
        flat = table[LABELS_COLUMN].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        label_NT = flat.astype(np.float64).reshape(-1, len(tasks))
        keys = {
            name.removeprefix(KEY_PREFIX): table[name] for name in table.column_names if name.startswith(KEY_PREFIX)
        }
        is_weighted = self.config.evaluate.weighted and WEIGHT_COLUMN in table.column_names
        return Impressions(
            first_row,
            keys,
            np.asarray(table[WEIGHT_COLUMN], np.float64) if is_weighted else np.ones(table.num_rows),
            dict(zip(tasks, label_NT.T, strict=True)),
            scorer.predictor.predict(table),
            scorer.baseline.predict(table) if scorer.baseline is not None else {},
            self.truth.look_up(keys["row"], source) if self.truth else {},
            self.slicer.slice(table),
        )

    def write_finished(self, finished: FinishedTable, numbered: tuple[int, TablePiece]) -> int:
        """Reads a piece of a finished table and returns its number of rows."""
        number, piece = numbered
        return self._write(number, finished.impressions(piece, self.slicer, self.truth))

    def _write(self, number: int, rows: Impressions, **seen: Any) -> int:
        return write_part(self.path(number), rows, self.config.data_schema.keys, **seen)

    def finish(self, num_parts: int, *, has_baseline: bool) -> PredictionTable:
        """The table, whose parts are all there."""
        paths = tuple(map(self.path, range(num_parts)))
        measured = tuple(measured_things(self.config.data_schema.tasks))
        summary = reduce(PartSummary.merge, map(read_summary, paths))
        return PredictionTable(paths, measured, summary, tuple(self.slicer.values), has_baseline)


def _without_nan(weight_TE: NDArray[np.float64]) -> list[list[float | None]]:
    return [[None if np.isnan(weight) else weight for weight in row] for row in weight_TE.tolist()]


# --- of a split


def score_split(
    config: RunConfig, index: DatasetIndex, checkpoint: Path, executor: Executor, progress: Progress | None
) -> tuple[PredictionTable, Slicer]:
    """The prediction table of the configured split, with what the compared model says if there is one.

    Also what gives other rows their slices.

    Raises:
        ConfigError: a slice cannot be made.
        ArtifactError: a shard or a checkpoint is missing, damaged, or of another schema.
        DataError: the table of true values does not hold every row or every output.
    """
    section, schema = config.evaluate, config.data_schema
    slices = check_slices(schema, section.slices)
    baseline = Path(section.baseline) if section.baseline else None
    configs = {checkpoint: config} | ({baseline: _with_model_of(config, baseline)} if baseline else {})
    manifests = {one: read_manifest(one) for one in configs}
    known = {one: check_lineage(manifests[one], schema, index, one, config.dataset_dir) for one in configs}
    shards = index.of_split(section.split)
    pieces = plan_pieces(shards, section.batch_size)
    folder = config.report_dir / PREDICTIONS_FOLDER
    work = {
        "shards": [shard.model_dump(mode="json") for shard in shards],
        "vocabulary_version": index.vocabulary_version,
        "checkpoints": [manifest.digest for manifest in manifests.values()],
        "models": [one.model.model_dump(mode="json") for one in configs.values()],
        "device": config.train.device,
    }
    _begin(folder, config, work)
    truth = open_truth(config, measured_things(schema.tasks), folder, executor, progress)
    fitted = FittedTransform.load(config.dataset_dir, schema)
    dimensions = open_dimensions(schema, slices, fitted, known[checkpoint])
    survey = partial(_survey_split, config, dimensions)
    writer = PartWriter(folder, config, _fit(dimensions, executor.map(survey, pieces if dimensions else ())), truth)
    missing = [numbered for numbered in enumerate(pieces) if not writer.path(numbered[0]).exists()]
    load = partial(Scorer, config, index, checkpoint, baseline)
    scored = executor.map_with(load, writer.write_scored, missing)
    for _ in counted(scored, "parts scored", len(missing), int, progress):
        pass
    return writer.finish(len(pieces), has_baseline=baseline is not None), writer.slicer


def _survey_split(config: RunConfig, dimensions: Sequence[Dimension], piece: SplitPiece) -> Survey:
    batches = read_batches(config.dataset_dir, piece, max(config.evaluate.batch_size, SURVEY_ROWS))
    first_row, surveys = piece.first_row, []
    for table in batches:
        surveys.append(Survey.of(dimensions, table, first_row))
        first_row += table.num_rows
    return reduce(Survey.merge, surveys)


# --- of a finished table


def read_finished_table(
    config: RunConfig, finished: FinishedTable, executor: Executor, progress: Progress | None
) -> PredictionTable:
    """The prediction table of a finished one.

    Raises:
        DataError: a file cannot be read, or a value in it is none.
    """
    pieces = finished.plan(MAX_PART_ROWS, executor)
    folder = config.report_dir / PREDICTIONS_FOLDER
    _begin(folder, config, {"files": _describe(finished.source)})
    truth = open_truth(config, finished.measured, folder, executor, progress)
    survey = partial(_survey_table, finished)
    slicer = _fit(finished.dimensions, executor.map(survey, pieces if finished.dimensions else ()))
    writer = PartWriter(folder, config, slicer, truth)
    missing = [numbered for numbered in enumerate(pieces) if not writer.path(numbered[0]).exists()]
    read = executor.map(partial(writer.write_finished, finished), missing)
    for _ in counted(read, "parts read", len(missing), int, progress):
        pass
    return writer.finish(len(pieces), has_baseline=finished.has_baseline)


def _survey_table(finished: FinishedTable, piece: TablePiece) -> Survey:
    return Survey.of(finished.dimensions, finished.read(piece, finished.slice_columns), piece.first_row)


# --- of both


def _fit(dimensions: Sequence[Dimension], surveys: Iterator[Survey]) -> Slicer:
    first = next(surveys, Survey({}, {}))
    return Slicer.of(dimensions, reduce(Survey.merge, surveys, first))


def _begin(folder: Path, config: RunConfig, work: dict[str, Any]) -> None:
    """Keeps the parts that an earlier attempt at the same work has left in the folder, and removes others."""
    truth = config.evaluate.truth
    work |= {
        "format": FORMAT,
        "schema": config.data_schema.model_dump(mode="json"),
        "evaluate": config.evaluate.model_dump(mode="json", exclude=MEASURED_LATER),
        "truth": _describe(SourceConfig(path=config.input_path(truth.path))) if truth else None,
    }
    text = json.dumps(work, sort_keys=True)
    path = folder / WORK_NAME
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        for leftover in list(folder.rglob(".*")):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        write_text(path, text)


def _describe(source: SourceConfig) -> list[list[Any]]:
    """The files of a source as they are now."""
    files = list_files(source)
    return [[file, *found] for file, found in zip(files, describe_files(files), strict=True)]
