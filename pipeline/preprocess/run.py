"""The preprocess stage: a pass over the raw log stages its rows and fits the transform, another writes the shards."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import dump
from pipeline.errors import UsageError
from pipeline.executor import Executor, Progress, counted
from pipeline.files import explaining_space, sync_folder, write_json, write_text
from pipeline.preprocess.contract import describe_added
from pipeline.preprocess.distinct import Merged, merge_range, plan_ranges, write_vocabulary
from pipeline.preprocess.drift import check_drift, describe_drift, find_drift, read_previous
from pipeline.preprocess.earlier import Earlier, forget_copy, read_earlier
from pipeline.preprocess.encode import Written, look_up_part, plan_shards, write_planned
from pipeline.preprocess.formats import read_column_names
from pipeline.preprocess.join_staging import stage_table
from pipeline.preprocess.leakage import check_disjoint
from pipeline.preprocess.log import Part, open_log
from pipeline.preprocess.profile import ValueProfile
from pipeline.preprocess.sources import describe_files, list_files
from pipeline.preprocess.stage import stage_part, text_tables
from pipeline.preprocess.statistics import check_findings, describe, label_statistics
from pipeline.preprocess.survey import Counts, Survey
from pipeline.preprocess.transform import FittedTransform, load_encodings
from pipeline.preprocess.unzip import UNZIPPED_FOLDER
from pipeline.preprocess.vocabulary import Vocabulary
from pipeline.run_config import RunConfig
from pipeline.schema import Schema
from pipeline.shards.manifest import (
    INDEX_NAME,
    SHARD_PATTERNS,
    SIDE_PATTERNS,
    SPLITS,
    STATISTICS_NAME,
    DatasetIndex,
    write_index,
)
from pipeline.shards.remote import begin_publishing, is_complete, publish
from pipeline.shards.vocabularies import VOCABULARIES_FOLDER, vocabulary_path
from pipeline.shards.writer import ShardWriter

STAGING_FOLDER = ".staging"
STAGING_FORMAT = 3
PLAN_NAME = "work.json"


def preprocess(
    config: RunConfig, executor: Executor, progress: Progress | None = None, overwrite: bool = False
) -> DatasetIndex:
    """Writes the dataset of a run: shards by split, vocabularies, statistics.json, and last, by rename, index.json.

    The same input and configuration give the same bytes, whatever the executor.

    Raises:
        UsageError: the dataset is complete already, and `overwrite` is false.
        ConfigError: the configuration does not fit the files.
        DataError: a file, a column or a value cannot be used, or a split or a task has no rows.
        StorageError: the disk is full or does not answer.
    """
    dataset_dir, remote = config.dataset_dir, config.remote_dataset
    staging = dataset_dir / STAGING_FOLDER
    # Of a dataset that is kept elsewhere, a finished folder may be what was not uploaded yet.
    is_finished = (dataset_dir / INDEX_NAME).exists() and not staging.exists()
    if not overwrite and (is_finished or is_complete(dataset_dir, remote)):
        raise UsageError(
            f"{remote if remote and not is_finished else dataset_dir} holds a complete dataset",
            "choose another `workspace`, or overwrite it with --overwrite",
        )
    earlier, previous = read_earlier(config), _previous(config)
    log, parts = open_log(config, staging, executor)
    work = _work(config, earlier, parts)
    if _is_the_same_work(staging, work):
        for leftover in dataset_dir.rglob(".*.partial"):
            leftover.unlink()
    else:
        clear_folder(dataset_dir)
        write_text(staging / PLAN_NAME, work)
    begin_publishing(dataset_dir, remote)
    dump(config, config.workspace_dir)
    for table in log.tables:
        stage_table(table, executor, progress)
    shuffle_seed = config.seed if config.preprocess.shuffle else None

    survey, rows_by_part = Survey(), []
    stage = partial(stage_part, log, dataset_dir, staging, shuffle_seed)
    staged = executor.map(stage, parts)
    for one in counted(staged, "partitions read", len(parts), lambda one: sum(map(one.num_rows, SPLITS)), progress):
        survey.add(one)
        rows_by_part.append([one.num_rows(split) for split in SPLITS])
    survey.quarantine.check(config.preprocess.contract.max_quarantine_fraction)
    check_findings(survey, log.schema, config.preprocess)
    check_disjoint(log.split.disjoint, survey, staging, len(parts), executor)
    fitted, tables = _fit(log.schema, survey, earlier, staging, dataset_dir, len(parts), executor)

    numbers = range(len(parts))
    if text_tables(log.schema):
        for _ in executor.map(partial(look_up_part, fitted, staging), numbers):
            pass
    key_types = survey.unified_keys()
    plans = plan_shards(rows_by_part, config.preprocess.rows_per_shard, shuffle_seed)
    writer = ShardWriter(dataset_dir, config.preprocess.compression, remote)
    write = partial(write_planned, fitted, key_types, staging, writer)
    shards = executor.map(write, plans)
    written = list(counted(shards, "shards written", len(plans), lambda one: one.shard.rows, progress))
    encoded: Counts = Counter()
    for shard in written:
        encoded.update(shard.counts)
    statistics = describe(log, survey, fitted, encoded, tables)
    statistics["warnings"] = _added_columns(config, parts) + _drift(config, previous, statistics, survey)
    write_json(dataset_dir / STATISTICS_NAME, statistics)
    index = DatasetIndex(
        schema_fingerprint=log.schema.fingerprint(),
        data_schema=log.schema,
        vocabulary_version=fitted.version,
        table_rows=fitted.table_rows,
        # A model scales labels with them.
        label_statistics=earlier.index.label_statistics if earlier else label_statistics(survey, log.schema),
        time_range=_time_range(written, key_types.get("time")),
        shards=tuple(shard.shard for shard in written),
    )
    write_index(dataset_dir, index)
    publish(dataset_dir, remote)
    shutil.rmtree(dataset_dir / UNZIPPED_FOLDER, ignore_errors=True)
    shutil.rmtree(staging)
    forget_copy(config)
    return index


def _fit(
    schema: Schema,
    survey: Survey,
    earlier: Earlier | None,
    staging: Path,
    dataset_dir: Path,
    num_parts: int,
    executor: Executor,
) -> tuple[FittedTransform, dict[str, dict[str, Any]]]:
    """The transform that the training rows make, and what to tell of each table with a vocabulary."""
    open_tables = schema.vocabulary_owners()
    ranges = plan_ranges({table: survey.num_distinct[table] for table in open_tables})
    min_counts = {table: owner.min_count for table, owner in open_tables.items()}
    known = {
        table: encoding
        for table, encoding in (earlier.fitted.encodings if earlier else {}).items()
        if isinstance(encoding, Vocabulary)
    }
    merge = partial(merge_range, staging, num_parts, text_tables(schema), min_counts, known)
    merged: dict[str, list[Merged]] = {table: [] for table in open_tables}
    for one in executor.map(merge, ranges):
        merged[one.range.table].append(one)
    told: dict[str, dict[str, Any]] = {}
    for table, owner in open_tables.items():
        before, path = known.get(table), vocabulary_path(dataset_dir, table)
        refused = write_vocabulary(staging, merged[table], owner.max_size, before, path)
        profile = ValueProfile()
        for one in merged[table]:
            profile = profile.merge(one.profile)
        told[table] = {
            **profile.describe(),
            "kept_values": Vocabulary.load(path).num_values,
            "earlier_values": before.num_values if before else 0,
            "refused_values": refused,
        }
    # Other numbers would mean something else to a model that was trained with the earlier ones.
    if earlier:
        normalizations, boundaries = earlier.fitted.normalizations, earlier.fitted.boundaries
    else:
        normalizations = {f.name: survey.numbers[f.name].moments.normalization() for f in schema.numeric_features}
        boundaries = {
            feature.name: feature.boundaries or survey.samples[feature.name].boundaries(feature.num_buckets or 0)
            for feature in schema.bucketed_features
        }
    fitted = FittedTransform(schema, load_encodings(dataset_dir, schema), normalizations, boundaries)
    fitted.save_numbers(dataset_dir)
    return fitted, told


def _added_columns(config: RunConfig, parts: Sequence[Part]) -> list[str]:
    """Warnings of columns that the contract, if there is one, does not list."""
    columns = config.preprocess.contract.columns
    sources = {part.partition.path: part.partition.source for part in parts} if columns else {}
    return describe_added(columns, {path: read_column_names(source, path) for path, source in sources.items()})


def _previous(config: RunConfig) -> dict[str, Any] | None:
    """The statistics of the dataset that this one is compared with, if the configuration names one."""
    path = config.preprocess.contract.drift.previous
    return read_previous(path) if path is not None else None


def _drift(config: RunConfig, previous: dict[str, Any] | None, statistics: dict[str, Any], survey: Survey) -> list[str]:
    """Warnings of drift from the previous dataset, if there is one; adds all findings to statistics."""
    if previous is None:
        return []
    drift = config.preprocess.contract.drift
    findings = find_drift(previous, statistics, survey.numbers, drift)
    statistics["drift"] = describe_drift(findings, str(drift.previous))
    return check_drift(findings, drift)


def _work(config: RunConfig, earlier: Earlier | None, parts: Sequence[Part]) -> str:
    """What decides the bytes of a dataset: the configuration, and the files as they are now."""
    files = sorted({part.partition.path for part in parts})
    for table in config.preprocess.tables:
        files += list_files(table.model_copy(update={"path": config.input_path(table.path)}))
    work = {
        "format": STAGING_FORMAT,
        "seed": config.seed if config.preprocess.shuffle else None,
        "schema": config.data_schema.model_dump(mode="json"),
        "preprocess": config.preprocess.model_dump(mode="json"),
        "earlier": earlier.index.vocabulary_version if earlier else None,
        "files": [[file, *found] for file, found in zip(files, describe_files(files), strict=True)],
        "parts": [[part.partition.path, part.partition.first_row, part.first_row] for part in parts],
    }
    return json.dumps(work, sort_keys=True)


def _is_the_same_work(staging: Path, work: str) -> bool:
    """Whether an earlier attempt at the same work left staged parts."""
    path = staging / PLAN_NAME
    return path.is_file() and path.read_text(encoding="utf-8") == work


def clear_folder(dataset_dir: Path) -> None:
    """Removes an earlier dataset, the index first, or what an attempt that did not finish has left.

    Files that this stage does not write are kept.
    """
    try:
        with explaining_space(dataset_dir):
            dataset_dir.mkdir(parents=True, exist_ok=True)
        if (dataset_dir / INDEX_NAME).exists():
            (dataset_dir / INDEX_NAME).unlink()
            sync_folder(dataset_dir)
        for pattern in (*SHARD_PATTERNS, *SIDE_PATTERNS, ".*.partial"):
            for leftover in dataset_dir.glob(pattern):
                leftover.unlink()
        for folder in (VOCABULARIES_FOLDER, STAGING_FOLDER):
            shutil.rmtree(dataset_dir / folder, ignore_errors=True)
    except OSError as error:
        raise UsageError(f"{dataset_dir} cannot be written: {error}", "choose a `workspace` that can be") from error


def _time_range(written: list[Written], type_: pa.DataType | None) -> tuple[str, str] | None:
    """The first and last value of the time key, as text."""
    times = [time for one in written for time in one.times]
    if not times:
        return None
    ends = pc.min_max(pa.array(times, type_))
    return ends["min"].cast(pa.string()).as_py(), ends["max"].cast(pa.string()).as_py()
