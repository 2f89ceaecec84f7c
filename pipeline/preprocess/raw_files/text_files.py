"""Text files, CSV and JSON-lines: where their rows are cut, opening a range of them, and reading JSON."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.json

from pipeline import storage
from pipeline.files import explaining_space
from pipeline.preprocess.config import SourceConfig

# A text file is parsed in blocks of this size, and no row may be longer than one.
BLOCK_BYTES = 16 << 20
# So much of a text file tells how long its rows are, and holds its header.
HEAD_BYTES = 1 << 20
# Of a range: rows may be long.
MAX_RANGE_BYTES = 256 << 20
# So much of a compressed file is read at a time.
COMPRESSED_BYTES = 4 << 20
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
ByteRange = tuple[int, int]


class TextRange(NamedTuple):
    """Some rows of a text file; all of it when `bytes` is None. `num_rows` is None where only parsing tells.

    The bytes are those of `unzipped`, if it is given: what `cut_rows` wrote of a `.gz`.
    """

    bytes: ByteRange | None
    first_row: int
    num_rows: int | None
    unzipped: Path | None = None


WHOLE = TextRange(None, 0, None)


def cut_rows(
    source: SourceConfig, file: str, rows_per_range: int, *, is_csv: bool, unzip_to: Path | None = None
) -> list[TextRange]:
    """The ranges of bytes of a text file that hold about so many rows each, cut where a row ends.

    A line ends a CSV row only where the quotes before it are even in number. A `.gz` is one range, unless there is a
    file to unzip it to: then each range is written there, compressed by itself, and has the bytes that it takes there.
    """
    with open_text(file) as stream:
        head = stream.read(HEAD_BYTES)
    bytes_per_range = max(1, min(rows_per_range * len(head) // max(head.count(b"\n"), 1), MAX_RANGE_BYTES))
    if unzip_to is None and (file.endswith(".gz") or bytes_per_range >= storage.describe(file).num_bytes):
        return [WHOLE]
    has_quotes, has_header = is_csv and is_quoted(source), is_csv and not source.column_names
    ranges: list[TextRange] = []
    start = first_row = 0
    with open_text(file) as stream, _create(unzip_to) if unzip_to else nullcontext() as sink:
        for rows in _whole_rows(stream, bytes_per_range, has_quotes):
            if has_quotes and rows.count(b'"') % 2:  # a quote that never ends
                return [WHOLE]
            has_blank_lines = rows.startswith((b"\n", b"\r\n")) or b"\n\n" in rows or b"\n\r\n" in rows
            is_exact = not has_blank_lines and not (has_quotes and b'"' in rows)
            num_rows = rows.count(b"\n") + (not rows.endswith(b"\n")) - (has_header and start == 0)
            stored = rows
            if sink:
                stored = pa.compress(rows, codec="zstd", asbytes=True)
                sink.write(stored)
            end = start + len(stored)
            ranges.append(TextRange((start, end), first_row, num_rows if is_exact else None))
            start, first_row = end, first_row + num_rows
    return ranges


@contextmanager
def _create(path: Path) -> Iterator[BinaryIO]:
    with explaining_space(path.parent), open(path, "wb") as sink:
        yield sink


def _whole_rows(stream: pa.NativeFile, num_bytes: int, has_quotes: bool) -> Iterator[bytes]:
    """The content in pieces that end where a row does, about so many bytes each; the last one is what is left."""
    content = b""
    while more := stream.read(num_bytes):
        content += more
        end = content.rfind(b"\n") + 1
        while end and has_quotes and content.count(b'"', 0, end) % 2:
            end = content.rfind(b"\n", 0, end - 1) + 1
        if end and len(more) == num_bytes:
            yield content[:end]
            content = content[end:]
    if content:
        yield content


def open_text(file: str, text: TextRange = WHOLE) -> pa.NativeFile:
    """The content of a text file, or of a range of it, as it was before it was compressed."""
    path = str(text.unzipped or file)
    stream = storage.open_file(path)
    if text.bytes is not None:
        with stream:
            stream.seek(text.bytes[0])
            stream = pa.BufferReader(stream.read_buffer(text.bytes[1] - text.bytes[0]))
    compression = next((name for ending, name in COMPRESSIONS.items() if path.endswith(ending)), None)
    if compression is None:
        return stream
    # By itself it would read little at a time, and each time ask a store for that.
    return pa.CompressedInputStream(pa.BufferedInputStream(stream, COMPRESSED_BYTES), compression)


def is_quoted(source: SourceConfig) -> bool:
    """Whether a CSV file has quotes around values that hold a delimiter or a line end."""
    return len(source.delimiter.encode()) == 1


def read_json(file: str, text: TextRange = WHOLE) -> pa.Table:
    """All columns of some rows."""
    options = pyarrow.json.ReadOptions(block_size=BLOCK_BYTES)
    with open_text(file, text) as stream:
        table = pyarrow.json.read_json(stream, options)
    guessed = [field.name for field in table.schema if pa.types.is_timestamp(field.type)]
    if not guessed:
        return table
    # JSON has no times: a text that looks like one stays a text.
    parse = pyarrow.json.ParseOptions(explicit_schema=pa.schema([(name, pa.string()) for name in guessed]))
    with open_text(file, text) as stream:
        return pyarrow.json.read_json(stream, options, parse)


def json_names(file: str) -> list[str]:
    """The columns of a JSON-lines file: the keys of all its rows."""
    names: dict[str, None] = {}
    with open_text(file) as stream:
        for rows in _whole_rows(stream, BLOCK_BYTES // 2, has_quotes=False):
            table = pyarrow.json.read_json(pa.BufferReader(rows), pyarrow.json.ReadOptions(block_size=BLOCK_BYTES))
            names |= dict.fromkeys(table.column_names)
    return list(names)
