"""The score stage: candidate sets joined with the tables, scored, fused, and the best of each request written."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.tasks import output_names
from pipeline.assemble import tasks_of
from pipeline.errors import ConfigError, DataError, UsageError
from pipeline.executor import Progress
from pipeline.files import sha256_of, write_atomically, write_json
from pipeline.preprocess.formats import read_column_names
from pipeline.preprocess.join import JoinTable, join_tables, load_tables, plan_columns
from pipeline.preprocess.sources import Partition, plan_partitions, read_partition
from pipeline.preprocess.transform import FittedTransform
from pipeline.run_config import RunConfig
from pipeline.score.config import ScoreConfig
from pipeline.score.fusion import Fusion, parse_fusion
from pipeline.score.top_k import top_k
from pipeline.shards.manifest import check_schema, read_index
from pipeline.train.checkpoint import best_checkpoint
from pipeline.train.predictor import Predictor

MANIFEST_NAME = "manifest.json"
# A block of requests is at most about this many candidates, so that memory does not grow with the file.
CANDIDATES_PER_BLOCK = 200_000


def check_score(config: RunConfig) -> Fusion:
    """The parsed fusion formula of a configuration, checked before any work is done.

    Raises:
        ConfigError: there is no score section, or its formula is wrong.
    """
    if config.score is None:
        raise ConfigError("the configuration has no score section", "add score: candidates, items_column and fusion")
    names = output_names(tasks_of(config.data_schema, config.model, None))
    return parse_fusion(config.score.fusion, names)


def score(
    config: RunConfig, *, checkpoint: Path | None = None, overwrite: bool = False, progress: Progress | None = None
) -> Path:
    """Writes the ranked candidates as `part-00000.parquet` ... and, last, manifest.json; returns their folder.

    Columns: the request and user keys, rank (from 1), the item key, score, then each output of the model.

    Raises:
        UsageError: the folder holds ranked candidates already, and `overwrite` is false.
        ConfigError, DataError, ArtifactError: the formula, the candidates or the checkpoint is wrong.
    """
    fusion = check_score(config)
    assert config.score is not None
    folder = config.scores_dir
    if (folder / MANIFEST_NAME).exists() and not overwrite:
        raise UsageError(f"{folder} holds ranked candidates already", "choose another workspace, or add --overwrite")
    index = read_index(config.dataset_dir)
    check_schema(index, config.data_schema, config.dataset_dir)
    fitted = FittedTransform.load(config.dataset_dir, config.data_schema, index.vocabulary_version)
    checkpoint = checkpoint or best_checkpoint(config.checkpoints_dir)
    predictor = Predictor(config, index, checkpoint, config.score.batch_size)
    candidates = _Candidates(config, config.score)
    shutil.rmtree(folder, ignore_errors=True)
    rank = partial(_rank, config, fusion, fitted, predictor)
    files = []
    for done, partition in enumerate(candidates.partitions):
        path = folder / f"part-{done:05d}.parquet"
        ranked = [rank(rows, str(partition.path), first) for rows, first in candidates.blocks(partition)]
        write_atomically(path, partial(_write_parquet, pa.concat_tables(ranked)))
        files.append({"path": path.name, "rows": sum(t.num_rows for t in ranked), "sha256": sha256_of(path)})
        if progress:
            progress("candidate files ranked", done + 1, len(candidates.partitions))
    manifest: dict[str, Any] = {"fusion": fusion.formula, "top_k": config.score.top_k, "files": files}
    manifest["checkpoint"] = {"path": str(checkpoint), "step": predictor.manifest.step}
    write_json(folder / MANIFEST_NAME, manifest)
    return folder


class _Candidates:
    """The candidate sets, read in blocks of whole requests and joined with the user and item tables."""

    def __init__(self, config: RunConfig, section: ScoreConfig) -> None:
        keys = config.data_schema.keys
        self.items_column = section.items_column
        self.item_key = str(keys.item)
        self.request_key = str(keys.request)
        source = config.source(section.candidates)
        # A partition holds at least one row group or file, however many requests that is.
        self.partitions: list[Partition] = plan_partitions(source, CANDIDATES_PER_BLOCK)
        if not self.partitions:
            raise DataError(f"{source.path} holds no row", "give a file with candidate sets")
        features = [feature.source_column for feature in config.data_schema.features]
        needed = [name for name in dict.fromkeys([self.request_key, keys.user, *features]) if name]
        needed = [name for name in needed if name != self.item_key]
        tables = [table.model_copy(update={"path": config.input_path(table.path)}) for table in config.preprocess.tables]
        first = self.partitions[0].path
        offered = [*read_column_names(source, first), self.item_key]
        plan = plan_columns(offered, str(first), tables, [*needed, self.items_column])
        self.columns = tuple(name for name in plan.log if name != self.item_key)
        self.tables: list[JoinTable] = load_tables(tables, plan)

    def blocks(self, partition: Partition) -> Iterator[tuple[pa.Table, int]]:
        """One row per candidate with all its raw columns, and the number of the block's first request."""
        sets = read_partition(partition, self.columns)
        items = sets.column(self.items_column)
        if not pa.types.is_list(items.type) and not pa.types.is_large_list(items.type):
            raise DataError(
                f"column {self.items_column!r} of {partition.path} has type {items.type}, not a list of items",
                "give one row per request with a list of its candidates",
            )
        requests = sets.column(self.request_key)
        if len(requests.unique()) < len(requests):
            counts = requests.value_counts()
            twice = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"]
            raise DataError(f"request {twice} stands in two rows of {partition.path}", "give one row per request")
        lengths = np.asarray(pc.fill_null(pc.list_value_length(items), 0))
        block_of_set = (np.cumsum(lengths) - lengths) // CANDIDATES_PER_BLOCK
        for block in np.unique(block_of_set):
            places = np.flatnonzero(block_of_set == block)
            yield self._explode(sets.slice(places[0], len(places)), str(partition.path)), int(places[0])

    def _explode(self, sets: pa.Table, source: str) -> pa.Table:
        items = sets.column(self.items_column).combine_chunks()
        if items.flatten().null_count:
            raise DataError(f"column {self.items_column!r} of {source} holds a null item", "remove it from its list")
        rows = sets.drop_columns([self.items_column]).take(pc.list_parent_indices(items))
        rows = rows.append_column(self.item_key, pc.list_flatten(items))
        return join_tables(rows, self.tables, source)[0]


def _rank(
    config: RunConfig, fusion: Fusion, fitted: FittedTransform, predictor: Predictor, rows: pa.Table, source: str, first: int
) -> pa.Table:
    assert config.score is not None
    keys = config.data_schema.keys
    outputs = predictor.predict(fitted.encode_features(rows, source, first))
    fused = np.broadcast_to(fusion(outputs), (rows.num_rows,))
    if rows.num_rows and not np.isfinite(fused).all():
        bad = int(np.flatnonzero(~np.isfinite(fused))[0])
        raise DataError(
            f"score.fusion {fusion.formula!r} is {fused[bad]} for item {rows[keys.item][bad]} "
            f"of request {rows[keys.request][bad]}",
            "change the formula so that it is finite for every probability from 0 to 1",
        )
    _, request = np.unique(_codes(rows[keys.request]), return_inverse=True)
    places, rank = top_k(request.astype(np.int64), fused, _ranks_of_values(rows[keys.item]), config.score.top_k)
    kept = [name for name in (keys.request, keys.user) if name]
    table = rows.select(list(dict.fromkeys(kept))).take(pa.array(places))
    table = table.append_column("rank", pa.array(rank))
    table = table.append_column(str(keys.item), rows[keys.item].take(pa.array(places)))
    table = table.append_column("score", pa.array(fused[places]))
    for name, values in outputs.items():
        table = table.append_column(name, pa.array(values[places]))
    return table


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """A number per row, equal for equal values, in the order in which the values first appear."""
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    return np.asarray(encoded.indices)


def _ranks_of_values(column: pa.ChunkedArray) -> np.ndarray:
    """The place of each row's value among the sorted distinct values."""
    return np.asarray(pc.rank(column, sort_keys="ascending", tiebreaker="min")).astype(np.int64)


def _write_parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path)
