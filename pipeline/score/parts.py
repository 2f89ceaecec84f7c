"""The output of a score run: a file per unit, there whole or not at all, and what is told of each beside it.

Everything is written into a folder of the work, so that a restart makes only what is missing. The finished ranking
takes its place by rename, with its manifest, which is written last.
"""

import json
import os
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DataError, UsageError
from pipeline.files import explaining_space, retry, sha256_of, sync_folder, write_atomically, write_json, write_text
from pipeline.score.candidates.units import Unit
from pipeline.score.scorer import Counts, Scorer

MANIFEST_NAME = "manifest.json"
WORK_FOLDER = ".scoring"
WORK_NAME = "work.json"
# Ranked rows of several groups become a row group, or a record batch, of at least so many.
ROWS_PER_GROUP = 1 << 17


@dataclass(frozen=True)
class Work:
    """The folder of a run that is under way."""

    folder: Path
    format: Literal["parquet", "arrow"]

    @property
    def ranked_folder(self) -> Path:
        """What becomes the ranking."""
        return self.folder / "ranked"

    @property
    def tables_folder(self) -> Path:
        return self.folder / "tables"

    @property
    def regrouped_folder(self) -> Path:
        return self.folder / "regrouped"

    @property
    def unzipped_folder(self) -> Path:
        return self.folder / "unzipped"

    def part_path(self, unit: Unit) -> Path:
        return self.ranked_folder / f"part-{unit.number:05d}.{self.format}"

    def entry_path(self, unit: Unit) -> Path:
        """What is told of a part; it is written after the part."""
        return self.folder / "parts" / f"part-{unit.number:05d}.json"

    def begin(self, description: dict[str, Any]) -> None:
        """Keeps what an earlier attempt at the same work has left, and removes anything else.

        Raises:
            UsageError: the folder cannot be written.
        """
        text = json.dumps(description, sort_keys=True)
        path = self.folder / WORK_NAME
        try:
            if path.is_file() and path.read_text(encoding="utf-8") == text:
                for leftover in list(self.folder.rglob(".*")):
                    shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
                shutil.rmtree(self.unzipped_folder, ignore_errors=True)
            else:
                shutil.rmtree(self.folder, ignore_errors=True)
                write_text(path, text)
            for folder in (self.ranked_folder, self.unzipped_folder):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{self.folder} cannot be written: {error}", "choose a `workspace` that can be") from error

    def missing(self, units: Iterable[Unit]) -> list[Unit]:
        return [unit for unit in units if not (self.entry_path(unit).exists() and self.part_path(unit).exists())]

    def entry(self, unit: Unit) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.entry_path(unit).read_bytes())
        return found

    def finish(self, folder: Path) -> None:
        """The ranking, which is complete, takes the place of an earlier one in its folder."""
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(self.ranked_folder, folder)
        sync_folder(folder.parent)
        self.remove()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def write_part(work: Work, scorer: Scorer, unit: Unit) -> dict[str, Any]:
    """Ranks the candidates of a unit into its file, and returns what is told of it.

    Raises:
        GatehouseError: what `Scorer.rank` raises, or the disk is full.
    """
    path = work.part_path(unit)
    counts = Counts()
    num_rows = 0

    def write(temporary: Path) -> None:
        nonlocal counts, num_rows
        counts, num_rows = Counts(), 0
        scorer.predictor.forget()
        with _PartWriter(path, temporary, work.format) as writer:
            for table, counted in scorer.rank(unit):
                writer.add(table)
                counts, num_rows = counts.plus(counted), num_rows + table.num_rows

    retry(partial(write_atomically, path, write), path)
    entry = {
        "path": path.name,
        "rows": num_rows,
        "sha256": sha256_of(path),
        "requests": unit.num_requests,
        **counts._asdict(),
        "newer_values": scorer.predictor.newer_values,
    }
    write_json(work.entry_path(unit), entry)
    return entry


class _PartWriter:
    """Writes ranked rows in row groups of some size, with the schema of the first one."""

    def __init__(self, path: Path, temporary: Path, format_: str) -> None:
        self.path, self.temporary, self.format = path, temporary, format_
        self.waiting: list[pa.Table] = []
        self.num_bytes = 0
        self.schema: pa.Schema | None = None
        self.stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._flush()
        finally:
            with explaining_space(self.path, self.num_bytes):
                self.stack.close()

    def add(self, table: pa.Table) -> None:
        self.waiting.append(table)
        if sum(one.num_rows for one in self.waiting) >= ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if not self.waiting:
            return
        try:
            rows = pa.concat_tables(self.waiting, promote_options="permissive")
            rows = rows.cast(self.schema or rows.schema)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(
                f"the candidates of {self.path.name} have keys of different types: {error}", "write them with one type"
            ) from error
        self.waiting = []
        self.num_bytes += rows.nbytes
        with explaining_space(self.path, self.num_bytes):
            if self.schema is None:
                self.schema = rows.schema
                self.writer = self.stack.enter_context(self._open(rows.schema))
            self.writer.write_table(rows.combine_chunks())

    def _open(self, schema: pa.Schema) -> Any:
        if self.format == "parquet":
            # Numbers that hardly repeat are not worth a dictionary: that is most of what writing takes.
            dictionaries = [field.name for field in schema if not pa.types.is_floating(field.type)]
            return pq.ParquetWriter(self.temporary, schema, use_dictionary=dictionaries)
        sink = self.stack.enter_context(pa.OSFile(str(self.temporary), "wb"))
        return pa.ipc.new_file(sink, schema)
