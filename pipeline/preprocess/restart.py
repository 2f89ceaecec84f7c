"""What an earlier attempt has left in a dataset's folder: used when it did the same work, else removed."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.files import explaining_space, sync_folder, write_text
from pipeline.preprocess.earlier import Earlier
from pipeline.preprocess.log import Part
from pipeline.preprocess.raw_files.sources import describe_files, list_files
from pipeline.preprocess.raw_files.unzip import UNZIPPED_FOLDER
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import INDEX_NAME, SHARD_PATTERNS, SIDE_PATTERNS
from pipeline.shards.vocabularies import VOCABULARIES_FOLDER

STAGING_FOLDER = ".staging"
FINISHED_FOLDER = ".staging.finished"
STAGING_FORMAT = 5
PLAN_NAME = "work.json"


def prepare_folder(config: RunConfig, earlier: Earlier | None, parts: Sequence[Part]) -> bool:
    """Leaves in the folder only what an earlier attempt at the same work has finished; whether there was one."""
    staging = config.dataset_dir / STAGING_FOLDER
    work = _describe_work(config, earlier, parts)
    path = staging / PLAN_NAME
    if path.is_file() and path.read_text(encoding="utf-8") == work:
        for leftover in config.dataset_dir.rglob(".*.partial"):
            leftover.unlink()
        return True
    _clear(config.dataset_dir)
    write_text(path, work)
    return False


def finish(dataset_dir: Path) -> None:
    """Removes the staged parts of a dataset that is complete, by rename first: half of them would be of no use."""
    shutil.rmtree(dataset_dir / UNZIPPED_FOLDER, ignore_errors=True)
    (dataset_dir / STAGING_FOLDER).rename(dataset_dir / FINISHED_FOLDER)
    sweep_finished(dataset_dir)


def sweep_finished(dataset_dir: Path) -> None:
    """Removes what an attempt that was killed at its very end has left."""
    shutil.rmtree(dataset_dir / FINISHED_FOLDER, ignore_errors=True)


def _describe_work(config: RunConfig, earlier: Earlier | None, parts: Sequence[Part]) -> str:
    """What decides the bytes of a dataset: the configuration, and the files as they are now."""
    files = sorted({part.partition.path for part in parts})
    for table in config.preprocess.tables:
        files += list_files(table.model_copy(update={"path": config.input_path(table.path)}))
    work = {
        "format": STAGING_FORMAT,
        "dataset": config.remote_dataset,
        "seed": config.seed if config.preprocess.shuffle else None,
        "schema": config.data_schema.model_dump(mode="json"),
        "preprocess": config.preprocess.model_dump(mode="json"),
        "earlier": earlier.index.vocabulary_version if earlier else None,
        "files": [[file, *found] for file, found in zip(files, describe_files(files), strict=True)],
        "parts": [[part.partition.path, part.partition.first_row, part.first_row] for part in parts],
    }
    return json.dumps(work, sort_keys=True)


def _clear(dataset_dir: Path) -> None:
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
