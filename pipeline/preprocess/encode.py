"""The second pass: staged rows to encoded rows, as many in each shard as the configuration asks for."""

import base64
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.feature_kinds import NULL_ROW, UNSEEN_ROW, BucketedFeature, WeightedMultiValuedFeature
from pipeline.files import retry, write_json
from pipeline.preprocess.columns.keys import to_key
from pipeline.preprocess.profiles.survey import Counts, dump_counts, load_counts
from pipeline.preprocess.stage import NUMBER_PREFIX, StagedPart, map_batches, text_tables, write_staged
from pipeline.preprocess.transform import FittedTransform
from pipeline.shards.manifest import (
    KEY_PREFIX,
    LABELS_COLUMN,
    SPARSE_PREFIX,
    SPLITS,
    WEIGHT_COLUMN,
    WEIGHTS_PREFIX,
    ShardEntry,
    Split,
    shard_schema,
)
from pipeline.shards.writer import ShardWriter


class Piece(NamedTuple):
    """Neighbouring rows of a staged part."""

    number: int
    first_row: int
    num_rows: int


class ShardPlan(NamedTuple):
    """What one shard is made of; with a seed its rows are in random order."""

    name: str
    split: Split
    pieces: tuple[Piece, ...]
    shuffle_seed: tuple[int, ...] | None


@dataclass
class Written:
    """A shard, how many values in it were unseen in training, and its first and last time (an Arrow array of two)."""

    shard: ShardEntry
    counts: Counts = field(default_factory=Counter)
    times: pa.Array | None = None

    def to_json(self) -> dict[str, Any]:
        times = None
        if self.times is not None:
            batch = pa.record_batch([self.times], ["time"])
            times = base64.b64encode(batch.schema.serialize().to_pybytes() + batch.serialize().to_pybytes()).decode()
        return {"shard": self.shard.model_dump(mode="json"), "counts": dump_counts(self.counts), "times": times}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Written":
        times = None
        if content["times"] is not None:
            with pa.ipc.open_stream(base64.b64decode(content["times"])) as reader:
                times = reader.read_next_batch().column(0)
        return cls(ShardEntry.model_validate(content["shard"]), load_counts(content["counts"]), times)


def plan_shards(
    rows_by_part: Sequence[Sequence[int]], rows_per_shard: int, shuffle_seed: int | None
) -> list[ShardPlan]:
    """The shards of every split, given each part's rows by split (in the order of `SPLITS`).

    A shard takes the rows of the parts one after the other, and all are equal within a row. To shuffle, each takes an
    equal share of every part instead, whose rows lie in random order, and is then put in random order itself.
    """
    plans = []
    for place, split in enumerate(SPLITS):
        starts = [sum(rows[:place]) for rows in rows_by_part]
        pieces = [
            Piece(n, start, rows[place]) for n, (start, rows) in enumerate(zip(starts, rows_by_part, strict=True))
        ]
        total = sum(piece.num_rows for piece in pieces)
        num_shards = -(-total // rows_per_shard)
        bounds = [total * number // num_shards for number in range(num_shards + 1)] if num_shards else [0]
        for number, (first, end) in enumerate(pairwise(bounds)):
            name, seed = f"{split}-{number:05d}.arrow", None
            if shuffle_seed is None:
                chosen = tuple(_cut(pieces, first, end))
            else:
                chosen, seed = tuple(_share(pieces, number, num_shards)), (shuffle_seed, place, number)
            plans.append(ShardPlan(name, split, chosen, seed))
    return plans


def _share(pieces: Sequence[Piece], number: int, num_shares: int) -> Iterator[Piece]:
    for piece in pieces:
        low, high = (piece.num_rows * place // num_shares for place in (number, number + 1))
        if low < high:
            yield Piece(piece.number, piece.first_row + low, high - low)


def _cut(pieces: Sequence[Piece], first: int, end: int) -> Iterator[Piece]:
    place = 0
    for piece in pieces:
        low, high = max(first, place), min(end, place + piece.num_rows)
        if low < high:
            yield Piece(piece.number, piece.first_row + low - place, high - low)
        place += piece.num_rows


def look_up_part(fitted: FittedTransform, folder: Path, number: int) -> None:
    """Writes the table row of each distinct text of a staged part, the null row last in each table."""
    staged = StagedPart(folder, number)
    ids = []
    for table, texts in zip(text_tables(fitted.schema), map_batches(staged.texts_path), strict=True):
        encoding = fitted.encodings[table]
        rows = np.append(encoding.rows_of(texts.column("value"), np.asarray(texts.column("hash"))), NULL_ROW)
        ids.append(pa.RecordBatch.from_arrays([pa.array(rows)], names=["id"]))
    write_staged(staged.ids_path, ids)


def write_planned(
    fitted: FittedTransform, key_types: dict[str, pa.DataType], folder: Path, writer: ShardWriter, plan: ShardPlan
) -> Written:
    """Encodes the rows of one shard and writes it, unless an earlier attempt has."""
    done = folder / f"{plan.name}.json"
    if done.exists() and (writer.folder / plan.name).exists():
        return Written.from_json(json.loads(retry(done.read_bytes, done)))
    tables = [_encode(fitted, key_types, StagedPart(folder, piece.number), piece) for piece in plan.pieces]
    encoded = pa.concat_tables(tables).combine_chunks()
    if plan.shuffle_seed is not None:
        order = np.random.Generator(np.random.PCG64(plan.shuffle_seed)).permutation(len(encoded))
        encoded = encoded.take(pa.array(order))
    written = Written(writer.write(plan.name, encoded, plan.split))
    if "time" in key_types:
        ends = pc.min_max(encoded.column(KEY_PREFIX + "time"))
        written.times = pa.array([ends["min"], ends["max"]], key_types["time"])
    for feature in fitted.schema.sparse_features:
        ids = encoded.column(SPARSE_PREFIX + feature.name)
        ids = pc.list_flatten(ids) if pa.types.is_list(ids.type) else ids
        unseen = int(np.sum(np.asarray(ids) == UNSEEN_ROW))
        written.counts["features", feature.name, "unseen", plan.split] = unseen
    write_json(done, written.to_json())
    return written


def _encode(fitted: FittedTransform, key_types: dict[str, pa.DataType], staged: StagedPart, piece: Piece) -> pa.Table:
    rows = staged.read_rows(piece.first_row, piece.num_rows)
    schema = shard_schema(fitted.schema, fitted.table_rows, key_types)
    tables = text_tables(fitted.schema)
    batches = map_batches(staged.ids_path) if tables else []
    ids = {table: own.column("id") for table, own in zip(tables, batches, strict=True)}
    columns: list[pa.Array | pa.ChunkedArray] = []
    for feature in fitted.schema.sparse_features:
        type_ = schema.field(SPARSE_PREFIX + feature.name).type
        if isinstance(feature, BucketedFeature):
            numbers = _numbers(rows, feature.name)
            columns.append(pa.array(fitted.bucket_rows(feature.name, numbers), type_))
            continue
        columns.append(_ids_of(rows.column(SPARSE_PREFIX + feature.name), ids[feature.table_name], type_))
        if isinstance(feature, WeightedMultiValuedFeature):
            columns.append(rows.column(WEIGHTS_PREFIX + feature.name))
    if fitted.schema.numeric_features:
        inputs = {feature.name: _numbers(rows, feature.name) for feature in fitted.schema.numeric_features}
        columns.append(fitted.dense_of(inputs, piece.num_rows))
    columns.append(rows.column(LABELS_COLUMN))
    if fitted.schema.weight:
        columns.append(rows.column(WEIGHT_COLUMN))
    for role, type_ in key_types.items():
        columns.append(to_key(rows.column(KEY_PREFIX + role), type_, f"key {role}"))
    return pa.Table.from_arrays(columns, schema=schema)


def _numbers(rows: pa.Table, feature: str) -> np.ndarray:
    numbers: np.ndarray = rows.column(NUMBER_PREFIX + feature).to_numpy().astype(np.float64)
    return numbers


def _ids_of(places: pa.ChunkedArray, ids: pa.Array, type_: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """The table rows of staged places: of single values, or of lists."""
    if not pa.types.is_list(type_):
        return ids.cast(type_).take(places)
    lists = places.combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    offsets = lists.offsets.to_numpy()
    return pa.ListArray.from_arrays(pa.array(offsets - offsets[0]), ids.cast(type_.value_type).take(lists.flatten()))
