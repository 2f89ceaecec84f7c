"""The score stage: candidate sets are scored and fused, and the best of each request are written."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.tasks import output_names
from pipeline.assemble import tasks_of
from pipeline.config import dump
from pipeline.errors import ConfigError, UsageError
from pipeline.executor import Progress
from pipeline.files import explaining_space, retry, sha256_of, sync_folder, write_atomically, write_json
from pipeline.preprocess.transform import FittedTransform
from pipeline.run_config import RunConfig
from pipeline.schema import KeyColumns
from pipeline.score.candidates import Block, Candidates
from pipeline.score.fusion import Fusion, parse_fusion
from pipeline.score.top_k import top_k
from pipeline.shards.manifest import check_schema
from pipeline.shards.remote import fetch_index
from pipeline.train.checkpoints.checkpoint import best_checkpoint
from pipeline.train.checkpoints.lineage import describe_newer_values
from pipeline.train.predictor import Predictor

MANIFEST_NAME = "manifest.json"


def check_score(config: RunConfig) -> Fusion:
    """The parsed fusion formula of a configuration, checked before any work is done.

    Raises:
        ConfigError: there is no score section, its formula is wrong, or two columns of the output have one name.
    """
    if config.score is None:
        raise ConfigError("the configuration has no score section", "add score: candidates, items_column and fusion")
    outputs = output_names(tasks_of(config.data_schema, config.model, None))
    columns = _columns(config.data_schema.keys, outputs)
    for name in columns:
        if columns.count(name) > 1:
            raise ConfigError(
                f"the ranked candidates would have two columns {name!r}: {', '.join(columns)}",
                f"rename the task or the key column {name!r} in the schema",
            )
    return parse_fusion(config.score.fusion, outputs)


def _columns(keys: KeyColumns, outputs: list[str]) -> list[str]:
    of_request = dict.fromkeys(name for name in (keys.request, keys.user) if name)
    return [*of_request, "rank", str(keys.item), "score", *outputs]


def score(
    config: RunConfig, *, checkpoint: Path | None = None, overwrite: bool = False, progress: Progress | None = None
) -> Path:
    """Writes the ranked candidates as `part-00000.parquet` ... and manifest.json, and returns their folder.

    Columns: the request and user keys, rank (from 1), the item key, score, then each output of the model. The folder
    appears complete, by rename; until then an earlier one stays.

    Raises:
        UsageError: the folder holds ranked candidates already, and `overwrite` is false.
        ConfigError, DataError, ArtifactError: the formula, the candidates or the checkpoint is wrong.
        StorageError: the disk is full or does not answer.
    """
    fusion = check_score(config)
    assert config.score is not None
    folder = config.scores_dir
    if (folder / MANIFEST_NAME).exists() and not overwrite:
        raise UsageError(f"{folder} holds ranked candidates already", "choose another `workspace`, or add --overwrite")
    config.check_inputs()
    index = fetch_index(config.dataset_dir, config.remote_dataset)
    check_schema(index, config.data_schema, config.dataset_dir)
    fitted = FittedTransform.load(config.dataset_dir, config.data_schema, index.vocabulary_version)
    candidates = Candidates(config, config.score, fitted)
    checkpoint = checkpoint or best_checkpoint(config.checkpoints_dir)
    predictor = Predictor(config, index, checkpoint, config.score.batch_size)
    rank = partial(_rank, config.data_schema.keys, fusion, predictor, config.score.top_k)
    with _whole_folder(folder) as unfinished:
        dump(config, unfinished)
        manifest = {
            "fusion": fusion.formula,
            "top_k": config.score.top_k,
            "checkpoint": {"path": str(checkpoint), "step": predictor.manifest.step},
            "requests": candidates.num_requests,
            "files": _write_parts(candidates, rank, unfinished, progress),
            "newer_values": predictor.newer_values.counts,
        }
        write_json(unfinished / MANIFEST_NAME, manifest)
    return folder


def describe_ranking(folder: Path) -> list[str]:
    """What a person should know of ranked candidates: a line for each feature with values newer than the model."""
    return describe_newer_values(json.loads((folder / MANIFEST_NAME).read_bytes())["newer_values"])


def _write_parts(
    candidates: Candidates, rank: Callable[[Block], pa.Table], folder: Path, progress: Progress | None
) -> list[dict[str, Any]]:
    """Writes one file per partition of the candidates and returns the name, rows and sha256 of each."""
    files = []
    num_ranked = num_candidates = 0
    if progress:
        progress("requests ranked", 0, candidates.num_requests, 0, "candidates")
    for number, partition in enumerate(candidates.partitions):
        tables = []
        for block in candidates.blocks(partition):
            tables.append(rank(block))
            num_ranked += block.requests.num_rows
            num_candidates += len(block.item)
            if progress:
                progress("requests ranked", num_ranked, candidates.num_requests, num_candidates, "candidates")
        path = folder / f"part-{number:05d}.parquet"
        ranked = pa.concat_tables(tables)
        write = partial(write_atomically, path, partial(pq.write_table, ranked), ranked.nbytes)
        retry(write, path)
        files.append({"path": path.name, "rows": ranked.num_rows, "sha256": sha256_of(path)})
    return files


def _rank(keys: KeyColumns, fusion: Fusion, predictor: Predictor, k: int, block: Block) -> pa.Table:
    names = output_names(predictor.model.tasks)
    # The model takes no batch without rows.
    outputs = predictor.predict(block.features) if len(block.item) else dict.fromkeys(names, np.empty(0))
    fused = fusion(outputs)
    if not np.isfinite(fused).all():
        bad = int(np.flatnonzero(~np.isfinite(fused))[0])
        request = block.requests[keys.request][int(block.request[bad])]
        values = ", ".join(f"{name} = {outputs[name][bad]:g}" for name in sorted(fusion.names))
        raise ConfigError(
            f"score.fusion {fusion.formula!r} is {fused[bad]} for item {block.items[int(block.item[bad])]} "
            f"of request {request}, where {values}",
            "change the formula so that it is finite whatever the model predicts",
        )
    places, rank = top_k(block.request, fused, block.item, k)
    requests = block.requests.take(pa.array(block.request[places]))
    columns = [
        *requests.columns,
        pa.array(rank),
        block.items.take(pa.array(block.item[places])),
        pa.array(fused[places]),
        *(pa.array(outputs[name][places]) for name in names),
    ]
    return pa.table(columns, names=_columns(keys, names))


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` to write into, which takes its place when the block is left without an error."""
    unfinished = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        with explaining_space(unfinished):
            unfinished.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{unfinished} cannot be written: {error}", "choose a `workspace` that can be") from error
    try:
        yield unfinished
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(unfinished, folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
