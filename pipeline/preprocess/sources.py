"""Raw tables on disk: which files a source means, the partitions they are read in, and where a bad value lies."""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.errors import DataError
from pipeline.preprocess.config import SourceConfig
from pipeline.preprocess.formats import ENDINGS, count_group_rows, cut_text, format_of, read_column_names, read_file

# The key of a field's metadata that names the table which the column was joined from.
JOINED_FROM = b"joined_from"


@dataclass(frozen=True)
class Partition:
    """Rows of one file that are read together: some of its row groups or record batches, or a range of its bytes."""

    source: SourceConfig
    path: Path
    first_row: int = 0
    num_rows: int | None = None
    groups: tuple[int, ...] = ()
    byte_range: tuple[int, int] | None = None


def list_files(source: SourceConfig) -> list[Path]:
    """The data files of a source in the order of their names; names that start with a dot or `_` are left out.

    Raises:
        DataError: there is none, or their endings tell no format or several.
    """
    path = Path(source.path)
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = [file for file in sorted(path.iterdir()) if _is_data(file) and format_of(source, file)]
        if not files:
            raise DataError(
                f"the folder {path} holds no data file",
                f"put files that end in {', '.join(ENDINGS)} there, or give a glob such as {path}/*/*.parquet",
            )
    else:
        files = [file for file in map(Path, sorted(glob.glob(source.path, recursive=True))) if _is_data(file)]
        if not files:
            raise DataError(
                f"there is no file, folder or match for {source.path}",
                "check the path, and `inputs`, the folder that relative paths start from",
            )
    _check_one_format(source, files)
    return files


def _is_data(file: Path) -> bool:
    return file.is_file() and not file.name.startswith((".", "_"))


def _check_one_format(source: SourceConfig, files: list[Path]) -> None:
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


def plan_partitions(source: SourceConfig, rows_per_partition: int) -> list[Partition]:
    """The partitions of all files, in order.

    Row groups (Parquet) or record batches (Arrow IPC) are taken together up to `rows_per_partition` rows, at least one
    at a time; a CSV or JSON-lines file is cut at ends of lines, after about so many rows. A compressed text file is one
    partition.
    """
    partitions = []
    for file in list_files(source):
        group_rows = count_group_rows(source, file)
        if group_rows is None:
            for range_ in cut_text(source, file, rows_per_partition):
                partitions.append(Partition(source, file, range_.first_row, range_.num_rows, (), range_.bytes))
            continue
        first_row = 0
        for groups, rows in _grouped(group_rows, rows_per_partition):
            partitions.append(Partition(source, file, first_row, rows, groups))
            first_row += rows
    return partitions


def _grouped(group_rows: list[int], rows_per_partition: int) -> Iterator[tuple[tuple[int, ...], int]]:
    groups: list[int] = []
    rows = 0
    for group, more in enumerate(group_rows):
        if groups and rows + more > rows_per_partition:
            yield tuple(groups), rows
            groups, rows = [], 0
        groups.append(group)
        rows += more
    if groups:
        yield tuple(groups), rows


def read_partition(partition: Partition, columns: Sequence[str], *, keep_dictionaries: bool = False) -> pa.Table:
    """The rows of a partition with the given columns, in the given order; see `read_file` for `keep_dictionaries`.

    Raises:
        DataError: the file cannot be read, or a column is not there or is there twice.
    """
    groups = partition.groups
    return read_file(
        partition.source,
        partition.path,
        columns,
        groups,
        byte_range=partition.byte_range,
        keep_dictionaries=keep_dictionaries,
    )


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
    file, place = file_of(table, column, source), f"{source}, row {first_row + row + 1}"
    return place if file == source else f"{file}, joined to {place}"
