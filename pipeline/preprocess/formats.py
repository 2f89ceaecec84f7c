"""Reading one raw file in each format: its column names, its groups of rows, and the columns that are asked for.

A CSV column is always read as text. What needs numbers parses the text, and everything else compares texts, so no type
is guessed from the rows that one file happens to hold.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from pipeline.config import nearest
from pipeline.errors import DataError
from pipeline.preprocess.config import SourceConfig
from pipeline.preprocess.text import is_text

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
# A text file is parsed in blocks of this size, and no row may be longer than one.
BLOCK_BYTES = 16 << 20
# So much of a text file tells how long its rows are.
HEAD_BYTES = 1 << 20
ByteRange = tuple[int, int]


class TextRange(NamedTuple):
    """Some rows of a text file; all of it when `bytes` is None. `num_rows` is None where only parsing tells."""

    bytes: ByteRange | None
    first_row: int
    num_rows: int | None


def format_of(source: SourceConfig, file: Path) -> Format | None:
    """The format that the source names, or else the file's ending tells (`.gz` aside); None when neither does."""
    return source.format or ENDINGS.get(Path(file.name.removesuffix(".gz")).suffix.lower())


def read_column_names(source: SourceConfig, file: Path) -> list[str]:
    """The columns of one file, in its order."""
    with _reading(file):
        match format_of(source, file):
            case "parquet":
                return list(pq.read_schema(file).names)
            case "arrow":
                with pa.memory_map(str(file)) as memory, pa.ipc.open_file(memory) as reader:
                    return list(reader.schema.names)
            case "csv":
                return list(source.column_names or (_trimmed(source, name) for name in _csv_header(source, file)))
            case _:
                return list(_read_json(file).column_names)


def count_group_rows(source: SourceConfig, file: Path) -> list[int] | None:
    """The rows of each row group or record batch; None for a text file, which has none."""
    with _reading(file):
        match format_of(source, file):
            case "parquet":
                metadata = pq.read_metadata(file)
                return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            case "arrow":
                with pa.memory_map(str(file)) as memory, pa.ipc.open_file(memory) as reader:
                    return [reader.get_batch(group).num_rows for group in range(reader.num_record_batches)]
            case _:
                return None


def read_file(
    source: SourceConfig,
    file: Path,
    columns: Sequence[str],
    groups: Sequence[int],
    *,
    byte_range: ByteRange | None = None,
    keep_dictionaries: bool = False,
) -> pa.Table:
    """The given columns of one file, in the given order.

    Of a Parquet or Arrow file only the given groups, of a text file only the lines in `byte_range`, if there is one.

    `keep_dictionaries` reads the texts of a Parquet file as they mostly lie there, as places in the distinct ones.

    Raises:
        DataError: the file cannot be read, or a column is not there or is there twice.
    """
    format_ = format_of(source, file)
    with _reading(file):
        if format_ == "jsonl":
            table = _read_json(file, byte_range)
            check_columns(columns, table.column_names, file)
            return table.select(list(columns))
        check_columns(columns, read_column_names(source, file), file)
        match format_:
            case "parquet":
                texts = [field.name for field in pq.read_schema(file) if keep_dictionaries and is_text(field.type)]
                with pq.ParquetFile(file, read_dictionary=texts) as parquet:
                    table = parquet.read_row_groups(list(groups), columns=list(columns), use_threads=False)
            case "arrow":
                table = _read_batches(file, columns, groups)
            case _:
                table = _read_csv(source, file, columns, byte_range)
        return table.select(list(columns)).replace_schema_metadata()


def check_columns(wanted: Sequence[str], names: Sequence[str], place: Path | str) -> None:
    """Raises a DataError that names the first wanted column which is missing or ambiguous."""
    for column in wanted:
        if column not in names:
            raise DataError(f"column {column!r} is not in {place}", nearest(column, names).rstrip("?"))
        if list(names).count(column) > 1:
            raise DataError(f"column {column!r} is in {place} twice", "rename one of the two")


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0][:200].rstrip(". ")
        raise DataError(
            f"{file} cannot be read: {reason}", "restore the file, or correct how the source is declared"
        ) from error


def _read_batches(file: Path, columns: Sequence[str], groups: Sequence[int]) -> pa.Table:
    with pa.memory_map(str(file)) as memory, pa.ipc.open_file(memory) as reader:
        fields = sorted(reader.schema.get_field_index(column) for column in set(columns))
    options = pa.ipc.IpcReadOptions(included_fields=fields)
    with pa.memory_map(str(file)) as memory, pa.ipc.open_file(memory, options=options) as reader:
        batches = [reader.get_batch(group) for group in groups]
    table = pa.Table.from_batches(batches)
    # A damaged file can hold offsets that point outside its buffers.
    table.validate(full=True)
    return table


def cut_text(source: SourceConfig, file: Path, rows_per_range: int) -> list[TextRange]:
    """The ranges of bytes of a text file that hold about so many rows each, cut where a row ends.

    A line ends a CSV row only where the quotes before it are even in number.
    """
    if file.name.endswith(".gz"):
        return [TextRange(None, 0, None)]
    size, is_csv = file.stat().st_size, format_of(source, file) == "csv"
    has_header = is_csv and not source.column_names
    with _reading(file), open(file, "rb") as stream:
        head = stream.read(HEAD_BYTES)
        bytes_per_range = max(1, rows_per_range * len(head) // max(head.count(b"\n"), 1))
        if bytes_per_range >= size:
            return [TextRange(None, 0, None)]
        stream.seek(0)
        ranges: list[TextRange] = []
        start = first_row = 0
        while start < size:
            rows = _read_rows(stream, bytes_per_range, is_csv)
            if rows is None:  # a quote that never ends, or a row that is no shorter than everything that is left
                return [TextRange(None, 0, None)]
            is_exact = not (is_csv and b'"' in rows)
            num_rows = rows.count(b"\n") + (not rows.endswith(b"\n")) - (has_header and start == 0)
            ranges.append(TextRange((start, start + len(rows)), first_row, num_rows if is_exact else None))
            start, first_row = start + len(rows), first_row + num_rows
            stream.seek(start)
    return ranges


def _read_rows(stream: BinaryIO, num_bytes: int, is_csv: bool) -> bytes | None:
    """Whole rows from where the stream stands, about so many bytes of them; None if no row ends."""
    content = b""
    while more := stream.read(num_bytes):
        content += more
        if len(more) < num_bytes:
            return content if not is_csv or content.count(b'"') % 2 == 0 else None
        end = content.rfind(b"\n") + 1
        while end and is_csv and content.count(b'"', 0, end) % 2:
            end = content.rfind(b"\n", 0, end - 1) + 1
        if end:
            return content[:end]
    return content or None


def _open_text(file: Path, byte_range: ByteRange | None = None) -> pa.NativeFile:
    if byte_range is not None:
        with open(file, "rb") as stream:
            stream.seek(byte_range[0])
            return pa.BufferReader(stream.read(byte_range[1] - byte_range[0]))
    return pa.input_stream(str(file), compression="gzip" if file.name.endswith(".gz") else None)


def _csv_options(
    source: SourceConfig, names: Sequence[str] | None = None
) -> tuple[pyarrow.csv.ReadOptions, pyarrow.csv.ParseOptions]:
    """`names` are those of lines without a header."""
    names = list(names or source.column_names or ()) or None
    return (
        # One thread: only then does a parse error tell its row.
        pyarrow.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, column_names=names),
        pyarrow.csv.ParseOptions(delimiter=source.delimiter, newlines_in_values=True),
    )


def _csv_header(source: SourceConfig, file: Path) -> list[str]:
    with _open_text(file) as stream, pyarrow.csv.open_csv(stream, *_csv_options(source)) as reader:
        return list(reader.schema.names)


def _trimmed(source: SourceConfig, name: str) -> str:
    return name.strip() if source.strip_blanks else name


def _read_csv(
    source: SourceConfig, file: Path, columns: Sequence[str], byte_range: ByteRange | None = None
) -> pa.Table:
    raw_names = source.column_names or _csv_header(source, file)
    raw_name = {_trimmed(source, name): name for name in raw_names}
    included = [raw_name[column] for column in columns]
    convert = pyarrow.csv.ConvertOptions(
        include_columns=included, column_types={name: pa.string() for name in included}, strings_can_be_null=False
    )
    names = raw_names if byte_range is not None and byte_range[0] > 0 else None
    with _open_text(file, byte_range) as stream:
        table = pyarrow.csv.read_csv(stream, *_csv_options(source, names), convert)
    nulls = pa.array(source.null_values, pa.string())
    texts = [pc.utf8_trim_whitespace(column) if source.strip_blanks else column for column in table.columns]
    texts = [pc.if_else(pc.is_in(column, nulls), pa.scalar(None, pa.string()), column) for column in texts]
    return pa.table(texts, names=list(columns))


def _read_json(file: Path, byte_range: ByteRange | None = None) -> pa.Table:
    options = pyarrow.json.ReadOptions(block_size=BLOCK_BYTES)
    with _open_text(file, byte_range) as stream:
        table = pyarrow.json.read_json(stream, options)
    guessed = [field.name for field in table.schema if pa.types.is_timestamp(field.type)]
    if not guessed:
        return table
    # JSON has no times: a text that looks like one stays a text.
    parse = pyarrow.json.ParseOptions(explicit_schema=pa.schema([(name, pa.string()) for name in guessed]))
    with _open_text(file, byte_range) as stream:
        return pyarrow.json.read_json(stream, options, parse)
