"""CSV files: their columns, as texts, and the row that ended the parsing.

A column is always read as text. What needs numbers parses the text, and everything else compares texts, so no type is
guessed from the rows that one file happens to hold.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from pipeline.errors import DataError
from pipeline.preprocess.config import SourceConfig
from pipeline.preprocess.raw_files.text_files import BLOCK_BYTES, HEAD_BYTES, WHOLE, TextRange, is_quoted, open_text

# Stands for a delimiter of several characters, which the parser does not know.
UNIT_SEPARATOR = "\x1f"
MAX_SHOWN = 80
NOT_UTF8 = "add `encoding: latin-1` to the source if it is that, or write the file as UTF-8"


class _Delimiting:
    """Puts the unit separator in place of a delimiter of several characters, in one block of a stream after another."""

    def __init__(self, delimiter: bytes) -> None:
        self.delimiter, self.rest = delimiter, b""

    def __call__(self, block: Any) -> bytes:
        if UNIT_SEPARATOR.encode() in bytes(block):
            raise ValueError("a file whose delimiter has several characters cannot hold the character 0x1f")
        content = (self.rest + bytes(block)).replace(self.delimiter, UNIT_SEPARATOR.encode())
        # A delimiter may begin in one block and end in the next; after the last block comes an empty one.
        begun = [n for n in range(1, len(self.delimiter)) if block and content.endswith(self.delimiter[:n])]
        end = len(content) - max(begun, default=0)
        self.rest = content[end:]
        return content[:end]


def _open_csv(source: SourceConfig, file: str, text: TextRange = WHOLE) -> pa.NativeFile:
    stream = open_text(file, text)
    if is_quoted(source):
        return stream
    return pa.TransformInputStream(stream, _Delimiting(source.delimiter.encode(source.encoding)))


def _csv_options(
    source: SourceConfig, names: Sequence[str] | None, bad_rows: list[pyarrow.csv.InvalidRow]
) -> tuple[pyarrow.csv.ReadOptions, pyarrow.csv.ParseOptions]:
    """`names` are those of lines without a header; `bad_rows` receives the first row with a wrong number of fields."""

    def refuse(row: pyarrow.csv.InvalidRow) -> str:
        bad_rows.append(row)
        return "error"

    has_quotes = is_quoted(source)
    return (
        # One thread: only then does an error tell its row.
        pyarrow.csv.ReadOptions(
            use_threads=False,
            block_size=BLOCK_BYTES,
            column_names=list(names or source.column_names or ()) or None,
            encoding=source.encoding,
        ),
        pyarrow.csv.ParseOptions(
            delimiter=source.delimiter if has_quotes else UNIT_SEPARATOR,
            quote_char='"' if has_quotes else False,
            newlines_in_values=has_quotes,
            invalid_row_handler=refuse,
        ),
    )


def _csv_header(source: SourceConfig, file: str) -> list[str]:
    with _open_csv(source, file) as stream:
        head = stream.read(HEAD_BYTES).lstrip(b"\r\n")
    ends = (line_end.end() for line_end in re.finditer(rb"\r?\n|\r", head))
    end = next((end for end in ends if not is_quoted(source) or head.count(b'"', 0, end) % 2 == 0), len(head))
    header = pa.BufferReader(head[:end])
    try:
        return list(pyarrow.csv.read_csv(header, *_csv_options(source, None, [])).column_names)
    except UnicodeDecodeError as error:
        raise DataError(f"the header of {file} is not UTF-8", NOT_UTF8) from error


def csv_names(source: SourceConfig, file: str) -> list[str]:
    """The columns of a CSV file, in its order."""
    return list(source.column_names or (_trimmed(source, name) for name in _csv_header(source, file)))


def _trimmed(source: SourceConfig, name: str) -> str:
    return name.strip() if source.strip_blanks else name


def read_csv(source: SourceConfig, file: str, columns: Sequence[str], text: TextRange = WHOLE) -> pa.Table:
    """Some columns as texts.

    Raises:
        DataError: a row has too few or too many fields, or is no text in the source's encoding; names file and row.
    """
    raw_names = source.column_names or _csv_header(source, file)
    raw_name = {_trimmed(source, name): name for name in raw_names}
    included = [raw_name[column] for column in columns]
    convert = pyarrow.csv.ConvertOptions(
        include_columns=included, column_types={name: pa.string() for name in included}, strings_can_be_null=False
    )
    is_first = text.bytes is None or text.bytes[0] == 0
    num_before = text.first_row - (is_first and not source.column_names)
    bad_rows: list[pyarrow.csv.InvalidRow] = []
    options = _csv_options(source, None if is_first else raw_names, bad_rows)
    with _explaining(source, file, num_before, raw_names, bad_rows), _open_csv(source, file, text) as stream:
        table = pyarrow.csv.read_csv(stream, *options, convert)
    nulls = pa.array(source.null_values, pa.string())
    texts = [pc.utf8_trim_whitespace(column) if source.strip_blanks else column for column in table.columns]
    texts = [pc.if_else(pc.is_in(column, nulls), pa.scalar(None, pa.string()), column) for column in texts]
    return pa.table(texts, names=list(columns))


@contextlib.contextmanager
def _explaining(
    source: SourceConfig, file: str, num_before: int, names: Sequence[str], bad_rows: list[pyarrow.csv.InvalidRow]
) -> Iterator[None]:
    """Tells of the row that ended the parsing; `num_before` rows of the file lie before those that are parsed."""
    try:
        yield
    except pa.ArrowInvalid as error:
        if bad_rows:
            row = bad_rows[0]
            shown = row.text if len(row.text) <= MAX_SHOWN else f"{row.text[:MAX_SHOWN]}..."
            raise DataError(
                f"{file}, row {num_before + row.number} has not {row.expected_columns} fields, one per column, but "
                f"{row.actual_columns}: {shown.replace(UNIT_SEPARATOR, source.delimiter)!r}",
                "correct the row, or `delimiter` and `column_names` of the source",
            ) from error
        place = re.search(r"column #(\d+): Row #(\d+): .*invalid UTF8", str(error))
        if place is None:
            raise
        raise DataError(
            f"{file}, row {num_before + int(place[2])}: column {names[int(place[1])]!r} is not UTF-8",
            NOT_UTF8,
        ) from error
