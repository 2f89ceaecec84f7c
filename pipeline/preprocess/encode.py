"""The second pass: one part of the log to encoded rows, and from there to one shard per split."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.preprocess.keys import to_key
from pipeline.preprocess.labels import read_weights
from pipeline.preprocess.log import Part, RawLog, RawRows
from pipeline.preprocess.survey import Counts
from pipeline.preprocess.transform import FittedTransform
from pipeline.schema import UNSEEN_ROW, CategoricalFeature
from pipeline.shards.manifest import (
    KEY_PREFIX,
    SPARSE_PREFIX,
    SPLITS,
    ShardEntry,
    Split,
    shard_schema,
)
from pipeline.shards.writer import write_shard


@dataclass
class Written:
    """The shards of one part, how many values in them were unseen in training, and its first and last time."""

    shards: list[ShardEntry] = field(default_factory=list)
    counts: Counts = field(default_factory=Counter)
    times: list[pa.Scalar] = field(default_factory=list)


def shard_name(split: Split, number: int) -> str:
    return f"{split}-{number:05d}.arrow"


def write_part(
    log: RawLog, fitted: FittedTransform, key_types: dict[str, pa.DataType], dataset_dir: Path, part: Part
) -> Written:
    """Reads, joins, splits and encodes one part, and writes a shard for each split that has rows in it."""
    rows = log.read(part)
    encoded = _encode(rows, fitted, key_types)
    written = Written()
    if log.schema.keys.time and len(encoded):
        ends = pc.min_max(encoded.column(KEY_PREFIX + "time"))
        written.times = [ends[end] for end in ("min", "max") if ends[end].is_valid]
    for place, split in enumerate(SPLITS):
        chosen = encoded.filter(pa.array(rows.splits == place))
        for feature in log.schema.sparse_features:
            ids = chosen.column(SPARSE_PREFIX + feature.name)
            ids = ids if isinstance(feature, CategoricalFeature) else pc.list_flatten(ids)
            written.counts["features", feature.name, "unseen", split] = int(np.sum(np.asarray(ids) == UNSEEN_ROW))
        if len(chosen):
            written.shards.append(write_shard(dataset_dir / shard_name(split, part.number), chosen, split))
    return written


def _encode(rows: RawRows, fitted: FittedTransform, key_types: dict[str, pa.DataType]) -> pa.Table:
    features = fitted.encode_features(rows.table, rows.source, rows.first_row)
    keys = []
    for role, column in fitted.schema.keys.model_dump().items():
        if column:
            keys.append(to_key(rows.table.column(column), key_types[role], f"key {role}: column {column!r}"))
    labels = [fitted.encode_labels(rows.table, rows.source, rows.first_row)]
    if fitted.schema.weight:
        labels.append(pa.array(read_weights(fitted.schema.weight, rows.table, rows.source, rows.first_row)))
    schema = shard_schema(fitted.schema, fitted.table_rows, key_types)
    return pa.Table.from_arrays([*features.columns, *labels, *keys], schema=schema)
