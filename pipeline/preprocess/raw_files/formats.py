"""Reading one raw file in each format: its column names, its groups of rows, and the columns that are asked for."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config import nearest
from pipeline.errors import DataError
from pipeline.preprocess.columns.text import is_text
from pipeline.preprocess.config import SourceConfig
from pipeline.preprocess.raw_files.csv_files import csv_names, read_csv
from pipeline.preprocess.raw_files.text_files import WHOLE, TextRange, cut_rows, json_names, read_json

Format = Literal["parquet", "csv", "arrow", "jsonl"]
ENDINGS: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}

Result = TypeVar("Result")


def format_of(source: SourceConfig, file: str) -> Format | None:
    """The format that the source names, or else the file's ending tells (`.gz` aside); None when neither does."""
    return source.format or ENDINGS.get(Path(file.removesuffix(".gz")).suffix.lower())


def read_column_names(source: SourceConfig, file: str) -> list[str]:
    """The columns of one file, in its order, and after them those that its packed column holds."""

    def read() -> list[str]:
        match format_of(source, file):
            case "parquet":
                with storage.open_file(file) as content:
                    return list(pq.read_schema(content).names)
            case "arrow":
                with storage.map_file(file) as content, pa.ipc.open_file(content) as reader:
                    return list(reader.schema.names)
            case "csv":
                return csv_names(source, file)
            case _:
                return json_names(file)

    return [*reading(read, file), *(source.packed.column_names if source.packed else ())]


class RowGroup(NamedTuple):
    """A row group or record batch: its rows and, if they are known, the lowest and highest value of a column."""

    num_rows: int
    ends: pa.Array | None


def describe_groups(source: SourceConfig, file: str, column: str | None = None) -> list[RowGroup] | None:
    """Each row group or record batch, with the ends of a column; None for a text file, which has none.

    Those of a Parquet file are in its footer; of an Arrow file the column is read.
    """

    def read() -> list[RowGroup] | None:
        match format_of(source, file):
            case "parquet":
                with storage.open_file(file) as content:
                    return _describe_row_groups(pq.read_metadata(content), column)
            case "arrow":
                return _describe_batches(file, column)
            case _:
                return None

    return reading(read, file)


def read_file(
    source: SourceConfig,
    file: str,
    columns: Sequence[str],
    groups: Sequence[int],
    *,
    text: TextRange = WHOLE,
    keep_dictionaries: bool = False,
) -> pa.Table:
    """The given columns of one file, in the given order.

    Of a Parquet or Arrow file only the given groups, of a text file only those of a range.

    `keep_dictionaries` reads the texts of a Parquet file as they mostly lie there, as places in the distinct ones.

    Raises:
        DataError: the file cannot be read, or a column is not there or is there twice.
    """

    def read() -> pa.Table:
        match format_of(source, file):
            case "parquet":
                return _read_groups(file, columns, groups, keep_dictionaries=keep_dictionaries)
            case "arrow":
                return _read_batches(file, columns, groups)
            case "csv":
                check_columns(columns, csv_names(source, file), file)
                return read_csv(source, file, columns, text)
            case _:
                table = read_json(file, text)
                check_columns(columns, table.column_names, file)
                return table

    return reading(read, file).select(list(columns)).replace_schema_metadata()


def check_columns(wanted: Sequence[str], names: Sequence[str], place: str) -> None:
    """Raises a DataError that names the first wanted column which is missing or ambiguous."""
    for column in wanted:
        if column not in names:
            raise DataError(f"column {column!r} is not in {place}", nearest(column, names).rstrip("?"))
        if list(names).count(column) > 1:
            raise DataError(f"column {column!r} is in {place} twice", "rename one of the two")


def reading(read: Callable[[], Result], file: str) -> Result:
    """What `read` returns, which opens the file itself so that it can be tried again.

    Raises:
        DataError: it cannot be read; the message names the file.
    """
    try:
        return storage.attempt(read, file)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0][:200].rstrip(". ")
        raise DataError(
            f"{file} cannot be read: {reason}", "restore the file, or correct how the source is declared"
        ) from error


def _read_groups(file: str, columns: Sequence[str], groups: Sequence[int], *, keep_dictionaries: bool) -> pa.Table:
    with storage.open_file(file) as content:
        whole = pq.ParquetFile(content)
        check_columns(columns, whole.schema_arrow.names, file)
        texts = [field.name for field in whole.schema_arrow if keep_dictionaries and is_text(field.type)]
        # Of a remote file, neighbouring column chunks come in one request.
        parquet = pq.ParquetFile(
            content, metadata=whole.metadata, read_dictionary=texts, pre_buffer=storage.is_remote(file)
        )
        return parquet.read_row_groups(list(groups), columns=list(columns), use_threads=False)


def _read_batches(file: str, columns: Sequence[str], groups: Sequence[int]) -> pa.Table:
    with storage.map_file(file) as content, pa.ipc.open_file(content) as reader:
        check_columns(columns, reader.schema.names, file)
        fields = sorted(reader.schema.get_field_index(column) for column in set(columns))
        options = pa.ipc.IpcReadOptions(included_fields=fields)
        with pa.ipc.open_file(content, options=options) as some:
            table = pa.Table.from_batches([some.get_batch(group) for group in groups])
    # A damaged file can hold offsets that point outside its buffers.
    table.validate(full=True)
    return table


def _describe_row_groups(metadata: pq.FileMetaData, column: str | None) -> list[RowGroup]:
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    names = [metadata.schema.column(place).path for place in range(metadata.num_columns)]
    if column not in names:
        return [RowGroup(group.num_rows, None) for group in groups]
    type_ = _plain_type(metadata.schema.to_arrow_schema().field(column).type)
    found = [group.column(names.index(column)).statistics for group in groups]
    return [
        RowGroup(group.num_rows, pa.array([one.min, one.max], type_) if one and one.has_min_max else None)
        for group, one in zip(groups, found, strict=True)
    ]


def _plain_type(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def _describe_batches(file: str, column: str | None) -> list[RowGroup]:
    with storage.map_file(file) as content, pa.ipc.open_file(content) as reader:
        has_column = column in reader.schema.names
        # The one column that is read.
        place = (
            reader.schema.get_field_index(column)
            if has_column
            else min(range(len(reader.schema)), key=lambda place: _width(reader.schema.types[place]), default=None)
        )
        options = pa.ipc.IpcReadOptions(included_fields=None if place is None else [place])
        with pa.ipc.open_file(content, options=options) as some:
            batches = [some.get_batch(number) for number in range(some.num_record_batches)]
            return [RowGroup(batch.num_rows, _ends(batch.column(0)) if has_column else None) for batch in batches]


def _ends(values: pa.Array) -> pa.Array | None:
    try:
        ends = pc.min_max(values.cast(_plain_type(values.type)))
    except pa.ArrowNotImplementedError:
        return None  # of lists
    return pa.array([ends["min"].as_py(), ends["max"].as_py()], ends["min"].type)


def _width(type_: pa.DataType) -> float:
    return type_.bit_width if pa.types.is_primitive(type_) else float("inf")


def cut_text(source: SourceConfig, file: str, rows_per_range: int, unzip_to: Path | None = None) -> list[TextRange]:
    """The ranges of bytes of a text file that hold about so many rows each; see `cut_rows` for `unzip_to`."""
    is_csv = format_of(source, file) == "csv"
    return reading(lambda: cut_rows(source, file, rows_per_range, is_csv=is_csv, unzip_to=unzip_to), file)
