"""Rows of a shard to a Batch of tensors: the layout's order, padding rows at the end, every id checked.

Shapes: B rows, F sparse features, D numeric inputs, T tasks.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torchrec import KeyedJaggedTensor

from models.batch import Batch
from pipeline.feature_kinds import ListFeature, WeightedMultiValuedFeature
from pipeline.schema import Schema
from pipeline.shards.arrays import counts_of, has_column, ids_of, join_ids, matrix_of, weights_of
from pipeline.shards.manifest import DENSE_COLUMN, LABELS_COLUMN, SPARSE_PREFIX, WEIGHT_COLUMN


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
        ValueError: the table has more rows than the batch.
    """
    rows, padding = table.num_rows, num_rows - table.num_rows
    if padding < 0:
        raise ValueError(f"a batch of {num_rows} rows has no room for {rows}")
    table = table.combine_chunks()  # a quarter of the time that it takes column by column
    values, id_weights = [], []
    lengths_FB = np.zeros((len(layout.features), num_rows), np.int32)
    for lengths_B, name, single in zip(lengths_FB, layout.features, layout.single_valued, strict=True):
        column = table[SPARSE_PREFIX + name]
        ids = ids_of(name, column, single)
        values.append(ids)
        lengths_B[:rows] = 1 if single else counts_of(column)
        if layout.weighted:
            has_weights = name in layout.weighted
            id_weights.append(weights_of(name, table) if has_weights else np.ones(len(ids), np.float32))
    sparse = KeyedJaggedTensor(
        keys=list(layout.features),
        values=torch.from_numpy(join_ids(layout.features, values, layout.num_embeddings)),
        lengths=torch.from_numpy(lengths_FB.reshape(-1)),
        weights=torch.from_numpy(np.concatenate(id_weights)) if id_weights else None,
    )
    weights = np.zeros(num_rows, np.float32)
    weights[:rows] = table[WEIGHT_COLUMN].to_numpy() if has_column(table, WEIGHT_COLUMN) else 1.0
    return Batch(
        torch.from_numpy(matrix_of(table, DENSE_COLUMN, layout.num_dense, padding, 0.0)),
        sparse,
        torch.from_numpy(matrix_of(table, LABELS_COLUMN, layout.num_tasks, padding, np.nan)),
        torch.from_numpy(weights),
        position,
    )
