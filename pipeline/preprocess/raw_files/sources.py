"""Raw tables: which files a source means, the partitions they are read in, and where a bad value lies."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from pipeline import storage
from pipeline.errors import DataError
from pipeline.executor import Executor, InProcessExecutor
from pipeline.preprocess.config import SourceConfig
from pipeline.preprocess.raw_files.formats import (
    ENDINGS,
    RowGroup,
    cut_text,
    describe_groups,
    format_of,
    read_column_names,
    read_file,
)
from pipeline.preprocess.raw_files.packed import raw_columns, unpack
from pipeline.preprocess.raw_files.text_files import WHOLE, TextRange
from pipeline.preprocess.raw_files.unzip import cut_gzip

# The key of a field's metadata that names the table which the column was joined from.
JOINED_FROM = b"joined_from"
# A column of a table that lacks some of the rows that were read: which of them each row was.
ROW_COLUMN = "\x1frow"
# Remote files that are looked into at a time: it is the store that each of them waits for.
REMOTE_FILES_AT_ONCE = 16


@dataclass(frozen=True)
class Partition:
    """Rows of one file that are read together: some of its row groups or record batches, or a range of its bytes."""

    source: SourceConfig
    path: str
    first_row: int = 0
    num_rows: int | None = None
    groups: tuple[int, ...] = ()
    text: TextRange = WHOLE


def list_files(source: SourceConfig) -> list[str]:
    """The data files of a source in the order of their names; names that start with a dot or `_` are left out.

    Raises:
        DataError: there is none, or their endings tell no format or several.
    """
    path = source.path
    files = storage.find_files(path)
    if files != [path]:
        files = [file for file in files if not storage.name_of(file).startswith((".", "_"))]
        if storage.is_folder(path):
            files = [file for file in files if format_of(source, file)]
            if not files:
                raise DataError(
                    f"the folder {path} holds no data file",
                    f"put files that end in {', '.join(ENDINGS)} there, or give a glob such as {path}/*/*.parquet",
                )
    if not files:
        storage.check_bucket(path)
        raise DataError(
            f"there is no file, folder or match for {path}",
            "check the path, and `inputs`, the folder that relative paths start from",
        )
    _check_one_format(source, files)
    return files


def _check_one_format(source: SourceConfig, files: list[str]) -> None:
    formats = {format_of(source, file): file for file in files}
    if None in formats:
        raise DataError(
            f"the ending of {formats[None]} tells no format",
            "add `format: parquet | csv | arrow | jsonl` to the source",
        )
    if len(formats) > 1:
        raise DataError(
            f"{source.path} holds files of several formats: {', '.join(sorted(map(str, formats)))}",
            "give a glob that matches the files of one format, such as *.parquet",
        )


def describe_files(files: Sequence[str]) -> list[storage.FileVersion]:
    """The size and version of each file."""
    return list(_executor_of(files).map(storage.describe, files))


def _executor_of(files: Sequence[str]) -> InProcessExecutor:
    return InProcessExecutor(REMOTE_FILES_AT_ONCE if any(map(storage.is_remote, files)) else 1)


class Excludes(Protocol):
    """Says of which groups of rows none is wanted, by the lowest and highest value of a column."""

    @property
    def column(self) -> str: ...

    def excludes(self, ends: pa.Array | None) -> bool: ...


def plan_partitions(
    source: SourceConfig,
    rows_per_partition: int,
    executor: Executor | None = None,
    unzip_folder: Path | None = None,
    window: Excludes | None = None,
) -> list[Partition]:
    """The partitions of all files, in order.

    Row groups (Parquet) or record batches (Arrow IPC) are taken together up to `rows_per_partition` rows, at least one
    at a time, but those that the window excludes; a CSV or JSON-lines file is cut at ends of lines, after about so many
    rows. A `.gz` text is one partition, unless there is a folder to unzip it to. Text files are read for it, by the
    executor if there is one.
    """
    files = list_files(source)
    if executor is None or format_of(source, files[0]) not in ("csv", "jsonl"):
        executor = _executor_of(files)
    by_file = executor.map(partial(_plan_file, source, rows_per_partition, unzip_folder, window), files)
    return [partition for partitions in by_file for partition in partitions]


def _plan_file(
    source: SourceConfig, rows_per_partition: int, unzip_folder: Path | None, window: Excludes | None, file: str
) -> list[Partition]:
    groups = describe_groups(source, file, window.column if window else None)
    if groups is None:
        if unzip_folder and file.endswith(".gz"):
            ranges = cut_gzip(source, file, rows_per_partition, unzip_folder)
        else:
            ranges = cut_text(source, file, rows_per_partition)
        return [Partition(source, file, one.first_row, one.num_rows, (), one) for one in ranges]
    is_wanted = [window is None or not window.excludes(group.ends) for group in groups]
    return [
        Partition(source, file, sum(group.num_rows for group in groups[: taken[0]]), rows, taken)
        for taken, rows in _grouped(groups, is_wanted, rows_per_partition)
    ]


def _grouped(
    groups: Sequence[RowGroup], is_wanted: Sequence[bool], rows_per_partition: int
) -> Iterator[tuple[tuple[int, ...], int]]:
    """Neighbouring groups that are wanted, with the number of their rows."""
    taken: list[int] = []
    rows = 0
    for number, group in enumerate(groups):
        if taken and (not is_wanted[number] or rows + group.num_rows > rows_per_partition):
            yield tuple(taken), rows
            taken, rows = [], 0
        if is_wanted[number]:
            taken.append(number)
            rows += group.num_rows
    if taken:
        yield tuple(taken), rows


def read_partition(partition: Partition, columns: Sequence[str], *, keep_dictionaries: bool = False) -> pa.Table:
    """The rows of a partition with the given columns, in the given order; see `read_file` for `keep_dictionaries`.

    Raises:
        DataError: the file cannot be read, or a column is not there or is there twice.
    """
    source, packed = partition.source, partition.source.packed
    raw = raw_columns(packed, columns) if packed else columns
    table = read_file(
        source, partition.path, raw, partition.groups, text=partition.text, keep_dictionaries=keep_dictionaries
    )
    return unpack(packed, table, columns, partition.path, partition.first_row) if packed else table


def count_rows(partition: Partition) -> int:
    """The rows of a partition; a text file is read for it."""
    if partition.num_rows is not None:
        return partition.num_rows
    first = read_column_names(partition.source, partition.path)[:1]
    return int(read_partition(partition, first).num_rows)


def read_table(source: SourceConfig, columns: Sequence[str]) -> pa.Table:
    """All rows of all files of a source.

    Raises:
        DataError: a file cannot be read, a column is not there, or its types differ between files.
    """
    parts = [read_partition(partition, columns) for partition in plan_partitions(source, 2**62)]
    if not any(part.num_rows for part in parts):
        raise DataError(f"{source.path} holds no row", "give a table with rows")
    try:
        return pa.concat_tables(parts, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"the files of {source.path} have columns of different types: {error}", "write them with one type"
        ) from error


def file_of(table: pa.Table, column: str, source: str) -> str:
    """The file that a column was read from: `source`, or the table that it was joined from."""
    joined_from = (table.schema.field(column).metadata or {}).get(JOINED_FROM)
    return joined_from.decode() if joined_from else source


def locate(table: pa.Table, column: str, row: int, source: str, first_row: int) -> str:
    """Where a value lies, for messages: the file and the row in it, counted from 1 without a header line.

    A joined column names its table, whose row is not known any more, and the row that it was joined to.
    """
    first_row += table.column(ROW_COLUMN)[row].as_py() if ROW_COLUMN in table.column_names else row
    file, place = file_of(table, column, source), f"{source}, row {first_row + 1}"
    return place if file == source else f"{file}, joined to {place}"
