"""Encoded rows as the inputs of a model that serves: tensors by name, every id and weight checked."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.serving import DENSE, IDS, LENGTHS, WEIGHTS
from pipeline.feature_kinds import ListFeature, WeightedMultiValuedFeature
from pipeline.schema import Schema
from pipeline.shards.arrays import counts_of, ids_of, join_ids, matrix_of, weights_of
from pipeline.shards.manifest import DENSE_COLUMN, SPARSE_PREFIX


def inputs_of(
    table: pa.Table, schema: Schema, table_rows: Mapping[str, int], device: torch.device
) -> dict[str, Tensor]:
    """The inputs of `ServingFrontEnd` for the features of a schema, from the columns of a shard.

    Raises:
        ArtifactError: an id lies outside its table, or is none, or its weight is none; the message names the feature.
    """
    arrays: dict[str, NDArray[np.int64] | NDArray[np.float32]] = {}
    for feature in schema.sparse_features:
        name, is_single = feature.name, not isinstance(feature, ListFeature)
        column = table[SPARSE_PREFIX + name]
        ids = ids_of(name, column, is_single)
        arrays[IDS + name] = join_ids([name], [ids], [table_rows[feature.table_name]])
        if not is_single:
            arrays[LENGTHS + name] = counts_of(column).astype(np.int64)
        if isinstance(feature, WeightedMultiValuedFeature):
            arrays[WEIGHTS + name] = weights_of(name, table)
    if schema.dense_names:
        arrays[DENSE] = matrix_of(table, DENSE_COLUMN, len(schema.dense_names), 0, 0.0)
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def describe_inputs(schema: Schema) -> dict[str, str]:
    """The type and the shape of each input: B rows, and as many ids as all rows of a feature have together."""
    described = {}
    for feature in schema.sparse_features:
        is_list = isinstance(feature, ListFeature)
        described[IDS + feature.name] = "int64 [ids]" if is_list else "int64 [B]"
        if is_list:
            described[LENGTHS + feature.name] = "int64 [B]"
        if isinstance(feature, WeightedMultiValuedFeature):
            described[WEIGHTS + feature.name] = "float32 [ids]"
    if schema.dense_names:
        described[DENSE] = f"float32 [B, {len(schema.dense_names)}]"
    return described


def example_inputs(schema: Schema) -> dict[str, Tensor]:
    """Inputs of three rows, with two values of each feature that may have several."""
    sizes = {"B": 3, "ids": 6}
    examples = {}
    for name, described in describe_inputs(schema).items():
        type_, _, shape = described.partition(" ")
        size = [sizes.get(part) or int(part) for part in shape.strip("[]").split(", ")]
        examples[name] = torch.full(size, 2 if name.startswith(LENGTHS) else 0, dtype=getattr(torch, type_))
    return examples
