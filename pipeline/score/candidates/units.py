"""The units of work: rows of candidate files that hold whole requests, and how they are read, some at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import storage
from pipeline.preprocess.raw_files.formats import check_columns, format_of, reading
from pipeline.preprocess.raw_files.packed import raw_columns, unpack
from pipeline.preprocess.raw_files.sources import Partition, read_partition

# Rows that are decoded at a time, and at most so many values of a column of lists.
ROWS_AT_ONCE = 65_536
VALUES_AT_ONCE = 1 << 20
# Of a column chunk of a remote file, which can be as large as the file.
REMOTE_BUFFER_BYTES = 8 << 20


@dataclass(frozen=True)
class Segment:
    """Rows of a partition, from its row `first` on; all of the rest when `num_rows` is None."""

    partition: Partition
    first: int = 0
    num_rows: int | None = None

    @property
    def first_row(self) -> int:
        """The place of the first row in its file."""
        return self.partition.first_row + self.first


@dataclass(frozen=True)
class Unit:
    """What becomes one output file: segments of one file, one after the other, with `num_requests` whole requests.

    Of rows, each request has so many of them (int64 [requests]); without `lengths` every row is a request, or, if they
    were `regrouped_from` a file, the rows of a request lie anywhere among those of the unit.
    """

    number: int
    segments: tuple[Segment, ...]
    num_requests: int
    lengths: NDArray[np.int64] | None = None
    regrouped_from: str | None = None

    @property
    def source(self) -> str:
        """The file, for messages."""
        if self.regrouped_from:
            return f"{self.regrouped_from}, regrouped by request"
        return self.segments[0].partition.path


def cut_at(lengths: NDArray[np.int64], size: int) -> list[int]:
    """The places, with both ends, that cut things of these lengths into groups of about `size` together."""
    starts = np.cumsum(lengths) - lengths
    edges = np.flatnonzero(np.diff(starts // size)) + 1
    return [0, *edges.tolist(), len(lengths)]


def read_segment(segment: Segment, columns: Sequence[str], lists: str | None = None) -> Iterator[pa.Table]:
    """The rows of a segment with the given columns, some at a time: fewer where the column of `lists` has long ones.

    A row group can be larger than memory, so Parquet files are decoded piece by piece; a file that falters is opened
    again where it was left.

    Raises:
        DataError: the file cannot be read, or a column is not there or is there twice.
    """
    partition = segment.partition
    if format_of(partition.source, partition.path) != "parquet":
        end = None if segment.num_rows is None else segment.first + segment.num_rows
        table = read_partition(partition, columns)[segment.first : end]
        for first in range(0, table.num_rows, ROWS_AT_ONCE):
            yield table[first : first + ROWS_AT_ONCE]
        return
    assert partition.num_rows is not None
    num_rows = partition.num_rows - segment.first if segment.num_rows is None else segment.num_rows
    done = 0
    stream: Iterator[pa.Table] | None = None

    def read_next() -> pa.Table:
        nonlocal stream
        stream, current = None, stream or _decode(partition, segment.first + done, columns, lists)
        table = next(current)
        stream = current  # only one that has not failed
        return table

    while done < num_rows:
        table = reading(read_next, partition.path)[: num_rows - done]
        if partition.source.packed:
            table = unpack(partition.source.packed, table, columns, partition.path, segment.first_row + done)
        done += table.num_rows
        yield table


def _decode(partition: Partition, skipped: int, columns: Sequence[str], lists: str | None) -> Iterator[pa.Table]:
    """The rows of a Parquet partition but for the first ones."""
    packed = partition.source.packed
    raw = raw_columns(packed, columns) if packed else list(columns)
    with storage.map_file(partition.path) as content:
        is_remote = storage.is_remote(partition.path)
        file = pq.ParquetFile(content, buffer_size=REMOTE_BUFFER_BYTES if is_remote else 0)
        check_columns(raw, file.schema_arrow.names, partition.path)
        groups = list(partition.groups)
        while groups and skipped >= file.metadata.row_group(groups[0]).num_rows:
            skipped -= file.metadata.row_group(groups.pop(0)).num_rows
        num_at_once = _rows_at_once(file.metadata, groups, lists)
        batches = file.iter_batches(num_at_once, row_groups=groups, columns=raw, use_threads=False)
        for batch in batches:
            table = pa.Table.from_batches([batch])[skipped:].select(raw).replace_schema_metadata()
            skipped = max(skipped - len(batch), 0)
            if table.num_rows:
                yield table


def _rows_at_once(metadata: pq.FileMetaData, groups: Sequence[int], lists: str | None) -> int:
    num_rows = num_values = 0
    for group in map(metadata.row_group, groups):
        chunks = map(group.column, range(group.num_columns))
        num_values += sum(chunk.num_values for chunk in chunks if chunk.path_in_schema.split(".")[0] == lists)
        num_rows += group.num_rows
    return max(1, min(ROWS_AT_ONCE, VALUES_AT_ONCE * num_rows // max(num_values, 1)))


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A raw column as one whose rows Arrow takes: no dictionaries and no string views."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.string()) if pa.types.is_string_view(column.type) else column
