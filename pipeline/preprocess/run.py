"""The preprocess stage: a pass over the raw log stages its rows and fits the transform, another writes the shards."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import dump
from pipeline.errors import UsageError
from pipeline.executor import Executor, Progress, counted
from pipeline.files import write_json
from pipeline.preprocess.checks.contract import describe_added
from pipeline.preprocess.checks.drift import check_drift, describe_drift, find_drift, read_previous
from pipeline.preprocess.checks.leakage import check_disjoint
from pipeline.preprocess.earlier import forget_copy, read_earlier
from pipeline.preprocess.encode import Written, look_up_part, plan_shards, write_planned
from pipeline.preprocess.fitting import fit
from pipeline.preprocess.joins.staging import stage_table
from pipeline.preprocess.log import Part, RawLog, open_log
from pipeline.preprocess.profiles.statistics import check_findings, describe, label_statistics
from pipeline.preprocess.profiles.survey import Counts, Survey
from pipeline.preprocess.raw_files.formats import read_column_names
from pipeline.preprocess.restart import STAGING_FOLDER, finish, prepare_folder, sweep_finished
from pipeline.preprocess.stage import stage_part, text_tables
from pipeline.preprocess.transform import FittedTransform
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import INDEX_NAME, SPLITS, STATISTICS_NAME, DatasetIndex, write_index
from pipeline.shards.remote import begin_publishing, is_complete, publish
from pipeline.shards.writer import ShardWriter


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
    sweep_finished(dataset_dir)
    is_there = remote is not None and is_complete(dataset_dir, remote)
    # One that is staged still was not uploaded whole, or was not swept.
    is_finished = (dataset_dir / INDEX_NAME).exists() and not staging.exists()
    if not overwrite and (is_there or is_finished):
        raise UsageError(
            f"{remote if is_there else dataset_dir} holds a complete dataset",
            "choose another `workspace`, or overwrite it with --overwrite",
        )
    earlier, previous = read_earlier(config), _previous(config)
    log, parts = open_log(config, staging, executor)
    goes_on = prepare_folder(config, earlier, parts)
    begin_publishing(dataset_dir, remote, goes_on=goes_on)
    dump(config, config.workspace_dir)
    for table in log.tables:
        stage_table(table, executor, progress)
    survey, rows_by_part = _stage(config, log, parts, executor, progress)
    survey.quarantine.check(config.preprocess.contract.max_quarantine_fraction)
    check_findings(survey, log, config.preprocess)
    check_disjoint(log.split.disjoint, survey, staging, len(parts), executor)
    fitted, tables = fit(log.schema, survey, earlier, staging, dataset_dir, len(parts), executor)
    key_types = survey.unified_keys()
    written = _encode(config, fitted, key_types, rows_by_part, executor, progress)
    encoded: Counts = Counter()
    for one in written:
        encoded.update(one.counts)
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
    finish(dataset_dir)
    forget_copy(config)
    return index


def _stage(
    config: RunConfig, log: RawLog, parts: Sequence[Part], executor: Executor, progress: Progress | None
) -> tuple[Survey, list[list[int]]]:
    """The survey of all parts, once they are staged, and the rows of each by split."""
    survey, rows_by_part = Survey(), []
    staging = config.dataset_dir / STAGING_FOLDER
    staged = executor.map(partial(stage_part, log, config.dataset_dir, staging, _shuffle_seed(config)), parts)
    for one in counted(staged, "partitions read", len(parts), lambda one: sum(map(one.num_rows, SPLITS)), progress):
        survey.add(one)
        rows_by_part.append([one.num_rows(split) for split in SPLITS])
    return survey, rows_by_part


def _encode(
    config: RunConfig,
    fitted: FittedTransform,
    key_types: dict[str, pa.DataType],
    rows_by_part: list[list[int]],
    executor: Executor,
    progress: Progress | None,
) -> list[Written]:
    """Writes the shards."""
    staging = config.dataset_dir / STAGING_FOLDER
    if text_tables(fitted.schema):
        for _ in executor.map(partial(look_up_part, fitted, staging), range(len(rows_by_part))):
            pass
    plans = plan_shards(rows_by_part, config.preprocess.rows_per_shard, _shuffle_seed(config))
    writer = ShardWriter(config.dataset_dir, config.preprocess.compression, config.remote_dataset)
    shards = executor.map(partial(write_planned, fitted, key_types, staging, writer), plans)
    return list(counted(shards, "shards written", len(plans), lambda one: one.shard.rows, progress))


def _shuffle_seed(config: RunConfig) -> int | None:
    return config.seed if config.preprocess.shuffle else None


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


def _time_range(written: list[Written], type_: pa.DataType | None) -> tuple[str, str] | None:
    """The first and last value of the time key, as text."""
    times = [one.times for one in written if one.times is not None]
    ends = pc.min_max(pa.chunked_array(times, type_)) if times else None
    if ends is None or not ends["min"].is_valid:
        return None
    return ends["min"].cast(pa.string()).as_py(), ends["max"].cast(pa.string()).as_py()
