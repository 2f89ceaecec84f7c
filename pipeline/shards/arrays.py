"""Columns of a shard as arrays, every id and weight checked: what training and serving make their tensors of."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import ArtifactError
from pipeline.shards.manifest import SPARSE_PREFIX, WEIGHTS_PREFIX


def ids_of(feature: str, column: pa.ChunkedArray, single: bool) -> NDArray[np.int64]:
    """The ids of all rows one after the other."""
    ids = _whole(column) if single else _whole(column).flatten()
    # Nulls and fractions would become ids that no one wrote.
    if ids.null_count or not pa.types.is_signed_integer(ids.type):
        found = "a null id" if ids.null_count else f"ids of type {ids.type}"
        raise ArtifactError(f"feature {feature!r}: {found} in a shard", "run `preprocess` again")
    array: NDArray[np.int64] = ids.to_numpy()
    return array


def counts_of(column: pa.ChunkedArray) -> NDArray[np.int32]:
    """How many ids each row of a column of lists has."""
    counts: NDArray[np.int32] = np.diff(_whole(column).offsets.to_numpy()).astype(np.int32, copy=False)
    return counts


def weights_of(feature: str, table: pa.Table) -> NDArray[np.float32]:
    """The weights of the ids of all rows one after the other, checked against how many ids each row has."""
    column = table[WEIGHTS_PREFIX + feature]
    weights = _whole(column).flatten().to_numpy(zero_copy_only=False)
    if not np.array_equal(counts_of(column), counts_of(table[SPARSE_PREFIX + feature])):
        raise ArtifactError(
            f"feature {feature!r}: a row in a shard has not one weight per id", "run `preprocess` again"
        )
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ArtifactError(f"feature {feature!r}: a weight in a shard is none", "run `preprocess` again")
    return np.asarray(weights, np.float32)


def join_ids(features: Sequence[str], ids: Sequence[NDArray[np.int64]], limits: Sequence[int]) -> NDArray[np.int64]:
    """The ids of all features one after the other.

    Raises:
        ArtifactError: an id is no row of its feature's table, of as many rows as `limits` says.
    """
    filled = [place for place, own in enumerate(ids) if len(own)]
    if not filled:
        return np.empty(0, np.int64)
    joined = np.concatenate(ids, dtype=np.int64)
    ends = np.cumsum([len(ids[place]) for place in filled])
    # As a number without a sign, an id below 0 is above every limit.
    largest = np.maximum.reduceat(joined.view(np.uint64), [0, *ends[:-1]])
    for place, found in zip(filled, largest, strict=True):
        # An id out of range would train another row without a word.
        if found >= limits[place]:
            own = ids[place]
            bad = int(own[(own < 0) | (own >= limits[place])][0])
            raise ArtifactError(
                f"feature {features[place]!r}: id {bad} is outside its table of {limits[place]} rows",
                "run `preprocess` again",
            )
    return joined


def matrix_of(table: pa.Table, name: str, width: int, padding: int, fill: float) -> NDArray[np.float32]:
    """A column of lists of `width` numbers, then `padding` rows, all `fill` where the table lacks the column."""
    matrix = np.full((table.num_rows + padding, width), fill, np.float32)
    if width and has_column(table, name) and table.num_rows:
        flat = _whole(table[name]).flatten().to_numpy(zero_copy_only=False)
        matrix[: table.num_rows] = flat.reshape(-1, width)
    return matrix


def has_column(table: pa.Table, name: str) -> bool:
    """Whether there is such a column, in a tenth of the time that `column_names` takes to be made."""
    return bool(table.schema.get_all_field_indices(name))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array, which is a copy only where it has several chunks."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
