"""The preprocess stage: two passes over the raw log, the first to fit the transform, the second to write the shards."""

import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import dump
from pipeline.errors import UsageError
from pipeline.executor import Executor, Progress
from pipeline.files import explaining_space, sync_folder, write_json
from pipeline.preprocess.encode import Written, write_part
from pipeline.preprocess.log import open_log
from pipeline.preprocess.statistics import check_findings, describe, label_statistics
from pipeline.preprocess.survey import Counts, Findings, survey_part
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import INDEX_NAME, SPLITS, DatasetIndex, write_index
from pipeline.shards.vocabularies import VOCABULARIES_FOLDER

STATISTICS_NAME = "statistics.json"

ResultT = TypeVar("ResultT")


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
    dataset_dir = config.dataset_dir
    if (dataset_dir / INDEX_NAME).exists() and not overwrite:
        raise UsageError(
            f"{dataset_dir} holds a complete dataset", "choose another `workspace`, or overwrite it with --overwrite"
        )
    log, parts = open_log(config, executor)
    clear_folder(dataset_dir)
    dump(config, config.workspace_dir)

    findings = Findings()
    for survey in _shown(executor.map(partial(survey_part, log), parts), "partitions read", len(parts), progress):
        findings.add(survey)
    check_findings(findings, log.schema, config.preprocess)
    fitted = findings.fit(log.schema)
    fitted.save(dataset_dir)

    key_types = findings.key_types
    write = partial(write_part, log, fitted, key_types, dataset_dir)
    written = list(_shown(executor.map(write, parts), "partitions written", len(parts), progress))
    encoded: Counts = Counter()
    for one in written:
        encoded.update(one.counts)
    write_json(dataset_dir / STATISTICS_NAME, describe(log, findings, fitted, encoded))
    shards = [shard for one in written for shard in one.shards]
    index = DatasetIndex(
        schema_fingerprint=log.schema.fingerprint(),
        data_schema=log.schema,
        vocabulary_version=fitted.version,
        table_rows=fitted.table_rows,
        label_statistics=label_statistics(findings, log.schema),
        time_range=_time_range(written, key_types.get("time")),
        shards=tuple(sorted(shards, key=lambda shard: SPLITS.index(shard.split))),
    )
    write_index(dataset_dir, index)
    return index


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
        for pattern in (*(f"{split}-*.arrow" for split in SPLITS), STATISTICS_NAME, ".*.partial"):
            for leftover in dataset_dir.glob(pattern):
                leftover.unlink()
        shutil.rmtree(dataset_dir / VOCABULARIES_FOLDER, ignore_errors=True)
    except OSError as error:
        raise UsageError(f"{dataset_dir} cannot be written: {error}", "choose a `workspace` that can be") from error


def _shown(results: Iterator[ResultT], what: str, total: int, progress: Progress | None) -> Iterator[ResultT]:
    for done, result in enumerate(results, start=1):
        if progress:
            progress(what, done, total)
        yield result


def _time_range(written: list[Written], type_: pa.DataType | None) -> tuple[str, str] | None:
    """The first and last value of the time key, as text."""
    times = [time for one in written for time in one.times]
    if not times:
        return None
    ends = pc.min_max(pa.array(times, type_))
    return ends["min"].cast(pa.string()).as_py(), ends["max"].cast(pa.string()).as_py()
