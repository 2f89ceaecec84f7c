"""Large `.gz` texts: read once from their start, and written anew in ranges of rows that can each be read alone."""

import hashlib
import json
from pathlib import Path

from pipeline import storage
from pipeline.errors import UsageError
from pipeline.files import explaining_space, write_atomically, write_json
from pipeline.preprocess.config import SourceConfig
from pipeline.preprocess.raw_files.formats import cut_text
from pipeline.preprocess.raw_files.text_files import WHOLE, TextRange

UNZIPPED_FOLDER = ".unzipped"


def cut_gzip(source: SourceConfig, file: str, rows_per_range: int, folder: Path) -> list[TextRange]:
    """The ranges of a `.gz`, in a file of `folder` that is about as large; WHOLE where one range holds all rows.

    What an earlier attempt has written is used again.

    Raises:
        DataError: the file cannot be read.
        UsageError: the folder cannot be written.
        StorageError: the disk is full.
    """
    found = storage.describe(file)
    work = json.dumps([file, found, rows_per_range, source.model_dump(mode="json")])
    path = folder / f"{hashlib.sha256(work.encode()).hexdigest()[:32]}.zst"
    index_path = path.with_suffix(".json")
    if not index_path.exists():
        try:
            with explaining_space(folder):
                folder.mkdir(parents=True, exist_ok=True)
            _write(source, file, rows_per_range, path, index_path)
        except OSError as error:
            raise UsageError(f"{folder} cannot be written: {error}", "choose a `workspace` that can be") from error
    cut = json.loads(index_path.read_bytes())
    return [TextRange((start, end), first_row, num_rows, path) for start, end, first_row, num_rows in cut] or [WHOLE]


def _write(source: SourceConfig, file: str, rows_per_range: int, path: Path, index_path: Path) -> None:
    """Writes the ranges, and last an index of them; an empty one and nothing else where there is only one."""
    cut = []

    def write(temporary: Path) -> None:
        for one in cut_text(source, file, rows_per_range, unzip_to=temporary):
            if one.bytes is not None:
                cut.append((*one.bytes, one.first_row, one.num_rows))

    write_atomically(path, write, storage.describe(file).num_bytes)
    if len(cut) < 2:
        path.unlink()
    write_json(index_path, cut if len(cut) > 1 else [])
