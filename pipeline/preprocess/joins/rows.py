"""The rows of a user or item table in the order that a lookup needs: by the hash of their key, in ranges of hashes.

Each partition is read and sorted by itself, and what they hold of a range is merged, so that no step holds all rows.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import DataError
from pipeline.preprocess.columns.hashing import hash64
from pipeline.preprocess.columns.labels import show_value
from pipeline.preprocess.columns.text import as_codes
from pipeline.preprocess.columns.times import parse_times
from pipeline.preprocess.config import TableConfig
from pipeline.preprocess.raw_files.sources import Partition, read_partition

# So many rows of a table are read at a time, or a row group of them, and about so many bytes are merged.
PARTITION_ROWS = 1_000_000
RANGE_BYTES = 256 << 20
HASH_RANGE = 1 << 64

# The columns of sorted rows; those that a table brings in have a prefix. Merged rows have no numbers any more.
HASH, KEY, VALID_FROM, NUMBER, VALUE_PREFIX = "hash", "key", "valid_from", "number", "value_"
# A row's number is that of its partition times this, and its place there.
MAX_PARTITION_ROWS = 1 << 40
# The time in place of a null in `valid_from`: before all others.
ALWAYS = np.iinfo(np.int64).min


def read_sorted(config: TableConfig, columns: Sequence[str], number: int, partition: Partition) -> pa.RecordBatch:
    """The rows of a partition that have a key, in the order of its hash; `number` is the partition's.

    Raises:
        DataError: the partition cannot be read, or a time in `valid_from` is none.
    """
    versions = [config.valid_from] if config.valid_from else []
    raw = read_partition(partition, list(dict.fromkeys([config.key, *versions, *columns])))
    codes, texts = as_codes(raw.column(config.key), f"key column {config.key!r} of {config.path}")
    hashes = np.append(hash64(texts), np.uint64(0))[codes]
    rows = np.flatnonzero(codes >= 0)
    rows = rows[np.argsort(hashes[rows], kind="stable")]
    own = {HASH: pa.array(hashes[rows]), KEY: texts.take(pa.array(codes[rows]))}
    if config.valid_from:
        own[VALID_FROM] = pa.array(_read_valid_from(config, config.valid_from, raw, partition)[rows])
    own[NUMBER] = pa.array(number * MAX_PARTITION_ROWS + rows)
    for name in columns:
        values = raw.column(name)
        # Arrow takes no rows of string views.
        values = values.cast(pa.string()) if pa.types.is_string_view(values.type) else values
        own[VALUE_PREFIX + name] = values.take(pa.array(rows))
    return _as_batch(pa.table(own))


def _as_batch(table: pa.Table) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([column.combine_chunks() for column in table.columns], schema=table.schema)


def _read_valid_from(config: TableConfig, column: str, raw: pa.Table, partition: Partition) -> np.ndarray:
    """The int64 microseconds since 1970 from which each row is valid."""
    source = str(partition.path)
    times = parse_times(raw.column(column), config.time_unit, f"valid_from: column {column!r} of {source}")
    if times.is_wrong.any():
        value = show_value(raw, column, int(np.argmax(times.is_wrong)), source, partition.first_row)
        raise DataError(
            f"valid_from: {value} is no time of the years 1 to 9999",
            "correct the value, or give the unit of numbers as time_unit of the table",
        )
    return np.where(times.is_null, ALWAYS, times.microseconds)


class SortedPart(Protocol):
    """The sorted rows of a partition, or what is known of those in a file."""

    schema: pa.Schema
    num_rows: int
    nbytes: int


class RangePlan(NamedTuple):
    """The ranges of hashes that the rows of a table are merged in, and the schema of all its sorted rows."""

    config: TableConfig
    partitions: list[Partition]
    schema: pa.Schema
    num_ranges: int

    @classmethod
    def of(cls, config: TableConfig, partitions: list[Partition], parts: Sequence[SortedPart]) -> "RangePlan":
        """For a table whose partitions have become these parts.

        Raises:
            DataError: no row has a key, or a column has types that do not go together.
        """
        if not any(part.num_rows for part in parts):
            raise DataError(f"{config.path} holds no row with a key", "give a table with rows")
        try:
            schema = pa.unify_schemas([part.schema for part in parts], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(
                f"the files of {config.path} have columns of different types: {error}", "write them with one type"
            ) from error
        return cls(config, partitions, schema, -(-sum(part.nbytes for part in parts) // RANGE_BYTES))


def range_lows(num_ranges: int) -> np.ndarray:
    """The lowest hash (uint64) of each range."""
    return np.array([HASH_RANGE * number // num_ranges for number in range(num_ranges)], np.uint64)


def merge_range(plan: RangePlan, parts: Iterable[pa.RecordBatch], number: int) -> pa.RecordBatch:
    """The rows of a range by hash, key and valid_from, out of the sorted rows of every partition.

    Raises:
        DataError: two rows have the same key, and are no two versions of it; names both.
    """
    pieces = [pa.Table.from_batches([_cut_range(part, number, plan.num_ranges)]) for part in parts]
    rows = pa.concat_tables([plan.schema.empty_table(), *pieces], promote_options="permissive")
    names = [HASH, KEY, *([VALID_FROM] if plan.config.valid_from else [])]
    batch = _as_batch(rows.take(pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in names])))
    _check_rows_differ(plan, batch)
    return batch.drop_columns([NUMBER])


def _cut_range(rows: pa.RecordBatch, number: int, num_ranges: int) -> pa.RecordBatch:
    edges = np.append(np.searchsorted(rows.column(HASH).to_numpy(), range_lows(num_ranges)), len(rows))
    return rows.slice(edges[number], edges[number + 1] - edges[number])


def _check_rows_differ(plan: RangePlan, batch: pa.RecordBatch) -> None:
    config = plan.config
    is_same = np.ones(max(len(batch) - 1, 0), bool)
    for name in (HASH, *([VALID_FROM] if config.valid_from else [])):
        values = batch.column(name).to_numpy()
        is_same &= values[1:] == values[:-1]
    same, keys = np.flatnonzero(is_same), batch.column(KEY)
    same = same[np.asarray(pc.equal(keys.take(pa.array(same)), keys.take(pa.array(same + 1))), bool)]
    if not len(same):
        return
    row = int(same[0])
    places = []
    for number in batch.column(NUMBER)[row : row + 2].to_pylist():
        partition = plan.partitions[number // MAX_PARTITION_ROWS]
        places.append(f"{partition.path}, row {partition.first_row + number % MAX_PARTITION_ROWS + 1}")
    what, fix = f"key {config.key} = {keys[row]}", "keep one row per key in that table"
    if config.valid_from:
        what += f" with {config.valid_from} = {_show_time(batch.column(VALID_FROM)[row].as_py())}"
        fix = "keep one row per key and time in that table"
    raise DataError(f"{what} stands in {places[0]} and in {places[1]}", fix)


def _show_time(microseconds: int) -> str:
    return "null" if microseconds == ALWAYS else str(datetime(1970, 1, 1) + timedelta(microseconds=microseconds))
