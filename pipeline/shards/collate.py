"""Rows of a shard to a Batch of tensors: the layout's order, padding rows at the end, every id checked.

Shapes: B rows, D numeric inputs, T tasks.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torchrec import KeyedJaggedTensor

from models.batch import Batch
from pipeline.errors import ArtifactError
from pipeline.feature_kinds import ListFeature, WeightedMultiValuedFeature
from pipeline.schema import Schema
from pipeline.shards.manifest import DENSE_COLUMN, LABELS_COLUMN, SPARSE_PREFIX, WEIGHT_COLUMN, WEIGHTS_PREFIX


@dataclass(frozen=True)
class Layout:
    """What collation needs of a schema: sparse features in order, the rows of each one's table, D and T.

    `weighted` are the features whose ids have weights.
    """

    features: tuple[str, ...]
    single_valued: tuple[bool, ...]
    num_embeddings: tuple[int, ...]
    num_dense: int
    num_tasks: int
    weighted: frozenset[str] = frozenset()

    @classmethod
    def of(cls, schema: Schema, table_rows: dict[str, int]) -> "Layout":
        features = schema.sparse_features
        return cls(
            tuple(f.name for f in features),
            tuple(not isinstance(f, ListFeature) for f in features),
            tuple(table_rows[f.table_name] for f in features),
            len(schema.dense_names),
            len(schema.tasks),
            frozenset(f.name for f in features if isinstance(f, WeightedMultiValuedFeature)),
        )


def collate(table: pa.Table, layout: Layout, num_rows: int, position: tuple[int, int] = (0, 0)) -> Batch:
    """A Batch of exactly `num_rows` rows: those of `table`, then padding with weight 0, empty bags and null labels.

    A table without a labels column (candidates) gives null labels, one without a weight column weight 1. If any feature
    is weighted the ids of all have weights, those of the others 1.

    Raises:
        ArtifactError: an id lies outside its table, or is none, or its weight is none; the message names the feature.
    """
    rows, padding = table.num_rows, num_rows - table.num_rows
    values, lengths, id_weights = [], [], []
    for name, single, limit in zip(layout.features, layout.single_valued, layout.num_embeddings, strict=True):
        ids, counts = _bags(name, table[SPARSE_PREFIX + name], single)
        _check_ids(name, ids, limit)
        values.append(ids)
        lengths += [counts, np.zeros(padding, np.int32)]
        if layout.weighted:
            id_weights.append(
                _weights(name, table, counts) if name in layout.weighted else np.ones(len(ids), np.float32)
            )
    sparse = KeyedJaggedTensor(
        keys=list(layout.features),
        values=torch.from_numpy(np.concatenate(values).astype(np.int64) if values else np.empty(0, np.int64)),
        lengths=torch.from_numpy(np.concatenate(lengths) if lengths else np.empty(0, np.int32)),
        weights=torch.from_numpy(np.concatenate(id_weights)) if id_weights else None,
    )
    weights = np.zeros(num_rows, np.float32)
    weights[:rows] = table[WEIGHT_COLUMN].to_numpy() if WEIGHT_COLUMN in table.column_names else 1.0
    return Batch(
        torch.from_numpy(_matrix(table, DENSE_COLUMN, layout.num_dense, padding, 0.0)),
        sparse,
        torch.from_numpy(_matrix(table, LABELS_COLUMN, layout.num_tasks, padding, np.nan)),
        torch.from_numpy(weights),
        position,
    )


def _bags(feature: str, column: pa.ChunkedArray, single: bool) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The ids of all rows one after the other, and how many each row has."""
    whole = column.combine_chunks()
    ids = whole if single else whole.flatten()
    # Nulls and fractions would become ids that no one wrote.
    if ids.null_count or not pa.types.is_signed_integer(ids.type):
        found = "a null id" if ids.null_count else f"ids of type {ids.type}"
        raise ArtifactError(f"feature {feature!r}: {found} in a shard", "run `preprocess` again")
    counts = np.ones(len(ids), np.int32) if single else np.diff(whole.offsets.to_numpy()).astype(np.int32)
    return ids.to_numpy(), counts


def _weights(feature: str, table: pa.Table, counts: NDArray[np.int32]) -> NDArray[np.float32]:
    """The weights of the ids of all rows one after the other, checked against how many ids each row has."""
    lists = table[WEIGHTS_PREFIX + feature].combine_chunks()
    weights = lists.flatten().to_numpy(zero_copy_only=False)
    if not np.array_equal(np.diff(lists.offsets.to_numpy()), counts):
        raise ArtifactError(
            f"feature {feature!r}: a row in a shard has not one weight per id", "run `preprocess` again"
        )
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ArtifactError(f"feature {feature!r}: a weight in a shard is none", "run `preprocess` again")
    return np.asarray(weights, np.float32)


def _check_ids(feature: str, ids: NDArray[np.int64], limit: int) -> None:
    # An id out of range would train another row without a word.
    if len(ids) and (ids.min() < 0 or ids.max() >= limit):
        bad = int(ids[(ids < 0) | (ids >= limit)][0])
        raise ArtifactError(
            f"feature {feature!r}: id {bad} is outside its table of {limit} rows", "run `preprocess` again"
        )


def _matrix(table: pa.Table, name: str, width: int, padding: int, fill: float) -> NDArray[np.float32]:
    matrix = np.full((table.num_rows + padding, width), fill, np.float32)
    if width and name in table.column_names and table.num_rows:
        flat = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        matrix[: table.num_rows] = flat.reshape(-1, width)
    return matrix
