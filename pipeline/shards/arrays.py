"""Columns of a shard as arrays, every id and weight checked: what training and serving make their tensors of."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import ArtifactError
from pipeline.shards.manifest import WEIGHTS_PREFIX


def bags_of(feature: str, column: pa.ChunkedArray, single: bool) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The ids of all rows one after the other, and how many each row has."""
    whole = _whole(column)
    ids = whole if single else whole.flatten()
    # Nulls and fractions would become ids that no one wrote.
    if ids.null_count or not pa.types.is_signed_integer(ids.type):
        found = "a null id" if ids.null_count else f"ids of type {ids.type}"
        raise ArtifactError(f"feature {feature!r}: {found} in a shard", "run `preprocess` again")
    counts = np.ones(len(ids), np.int32) if single else np.diff(whole.offsets.to_numpy()).astype(np.int32)
    return ids.to_numpy(), counts


def weights_of(feature: str, table: pa.Table, counts: NDArray[np.int32]) -> NDArray[np.float32]:
    """The weights of the ids of all rows one after the other, checked against how many ids each row has."""
    lists = _whole(table[WEIGHTS_PREFIX + feature])
    weights = lists.flatten().to_numpy(zero_copy_only=False)
    if not np.array_equal(np.diff(lists.offsets.to_numpy()), counts):
        raise ArtifactError(
            f"feature {feature!r}: a row in a shard has not one weight per id", "run `preprocess` again"
        )
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ArtifactError(f"feature {feature!r}: a weight in a shard is none", "run `preprocess` again")
    return np.asarray(weights, np.float32)


def check_ids(feature: str, ids: NDArray[np.int64], limit: int) -> None:
    """Raises an ArtifactError where an id is no row of its table of `limit` rows."""
    # An id out of range would train another row without a word.
    if len(ids) and (ids.min() < 0 or ids.max() >= limit):
        bad = int(ids[(ids < 0) | (ids >= limit)][0])
        raise ArtifactError(
            f"feature {feature!r}: id {bad} is outside its table of {limit} rows", "run `preprocess` again"
        )


def matrix_of(table: pa.Table, name: str, width: int, padding: int, fill: float) -> NDArray[np.float32]:
    """A column of lists of `width` numbers, then `padding` rows, all `fill` where the table lacks the column."""
    matrix = np.full((table.num_rows + padding, width), fill, np.float32)
    if width and name in table.column_names and table.num_rows:
        flat = _whole(table[name]).flatten().to_numpy(zero_copy_only=False)
        matrix[: table.num_rows] = flat.reshape(-1, width)
    return matrix


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array, which is a copy only where it has several chunks."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
