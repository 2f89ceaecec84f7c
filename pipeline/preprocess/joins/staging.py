"""Large tables, which no process holds: their ranges as files in the staging folder, mapped by those who look them up.

A map over the partitions of a table writes the rows of each in the order of their hashes, another over ranges of hashes
merges what the partitions have of each. A file is there whole or not at all: a restart makes those that are missing.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path

import pyarrow as pa

from pipeline.executor import Executor, Progress, counted
from pipeline.files import retry, write_atomically, write_json
from pipeline.preprocess.joins import rows as join_rows
from pipeline.preprocess.joins.rows import RangePlan, merge_range, read_sorted
from pipeline.preprocess.joins.table import JoinTable
from pipeline.preprocess.raw_files.sources import Partition, plan_partitions

RANGES_NAME = "ranges.json"


@dataclass(frozen=True)
class StagedRanges:
    """The ranges of a table in a folder, after `stage_table`."""

    folder: Path

    def __len__(self) -> int:
        return int(json.loads(retry(self.index_path.read_bytes, self.index_path))["num_ranges"])

    def __getitem__(self, number: int, /) -> pa.RecordBatch:
        return _map_rows(self.range_path(number))

    @property
    def index_path(self) -> Path:
        """What is written last."""
        return self.folder / RANGES_NAME

    def range_path(self, number: int) -> Path:
        return self.folder / f"range-{number:05d}.arrow"

    @property
    def parts_folder(self) -> Path:
        """What is removed when the ranges are there."""
        return self.folder / "parts"

    def part_path(self, number: int) -> Path:
        """The sorted rows of a partition."""
        return self.parts_folder / f"part-{number:05d}.arrow"


@dataclass
class _StagedFile:
    schema: pa.Schema
    num_rows: int
    nbytes: int


def stage_table(table: JoinTable, executor: Executor, progress: Progress | None = None) -> None:
    """Writes the files of a table whose ranges are staged, those that an earlier attempt has not; no other needs it.

    Raises:
        DataError: the table cannot be read, or a key stands in two rows that are no two versions of it.
        StorageError: the disk is full or does not answer.
    """
    ranges = table.ranges
    if not isinstance(ranges, StagedRanges) or ranges.index_path.exists():
        return
    rows_of = attrgetter("num_rows")
    partitions = plan_partitions(table.config, join_rows.PARTITION_ROWS, executor, ranges.parts_folder)
    sort = partial(_sort_partition, table, ranges)
    parts = list(
        counted(
            executor.map(sort, enumerate(partitions)), "table partitions sorted", len(partitions), rows_of, progress
        )
    )
    plan = RangePlan.of(table.config, partitions, parts)
    merge = partial(_merge_parts, plan, ranges)
    merged = executor.map(merge, range(plan.num_ranges))
    for _ in counted(merged, "table ranges merged", plan.num_ranges, rows_of, progress):
        pass
    write_json(ranges.index_path, {"num_ranges": plan.num_ranges})
    shutil.rmtree(ranges.parts_folder)


def _sort_partition(table: JoinTable, ranges: StagedRanges, numbered: tuple[int, Partition]) -> _StagedFile:
    return _write_once(ranges.part_path(numbered[0]), lambda: read_sorted(table.config, table.columns, *numbered))


def _merge_parts(plan: RangePlan, ranges: StagedRanges, number: int) -> _StagedFile:
    parts = (_map_rows(ranges.part_path(part)) for part in range(len(plan.partitions)))
    return _write_once(ranges.range_path(number), lambda: merge_range(plan, parts, number))


def _write_once(path: Path, make: Callable[[], pa.RecordBatch]) -> _StagedFile:
    if not path.exists():
        batch = make()

        def write(temporary: Path) -> None:
            with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
                writer.write_batch(batch)

        retry(lambda: write_atomically(path, write, batch.nbytes), path)
    rows = _map_rows(path)
    return _StagedFile(rows.schema, len(rows), path.stat().st_size)


def _map_rows(path: Path) -> pa.RecordBatch:
    """The rows in a file, in memory that is mapped."""

    def read() -> pa.RecordBatch:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            return reader.get_batch(0)

    return retry(read, path)
