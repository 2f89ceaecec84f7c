"""Files with a row per candidate in which the rows of a request are not neighbours: written anew, once, in buckets.

A request's rows go to one of a few files by the hash of its key, in their order; each is then read whole and sorted.
Sorting all rows would take as much disk, and reading them by place would decode a row group for every request.
"""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.files import explaining_space, sync_folder
from pipeline.preprocess.columns.hashing import hash64
from pipeline.preprocess.columns.text import as_codes
from pipeline.preprocess.config import SourceConfig
from pipeline.preprocess.raw_files.sources import Partition
from pipeline.score.candidates.units import Segment, plain, read_segment


@dataclass(frozen=True)
class Scattered:
    """A file to write anew into a folder of its own."""

    partitions: tuple[Partition, ...]
    columns: tuple[str, ...]
    request_key: str
    num_buckets: int
    folder: Path

    @property
    def path(self) -> str:
        return self.partitions[0].path

    @property
    def buckets(self) -> list[Path]:
        return [self.folder / f"bucket-{number:03d}.arrow" for number in range(self.num_buckets)]


def bucket_of(hashes: NDArray[np.uint64], num_buckets: int) -> NDArray[np.int64]:
    """The bucket that the rows of a request go to."""
    return (hashes % np.uint64(num_buckets)).astype(np.int64)


def regroup_file(scattered: Scattered) -> dict[int, Partition]:
    """The partitions that the buckets are, but those without rows; none is written that is there already.

    Raises:
        DataError: the file cannot be read, or has columns of different types in its parts.
        StorageError: the disk is full.
    """
    if not scattered.folder.exists():
        unfinished = scattered.folder.with_name(f".{scattered.folder.name}.partial")
        shutil.rmtree(unfinished, ignore_errors=True)
        with explaining_space(unfinished):
            unfinished.mkdir(parents=True)
            _write_buckets(scattered, [unfinished / path.name for path in scattered.buckets])
        unfinished.rename(scattered.folder)
        sync_folder(scattered.folder.parent)
    written = {number: str(path) for number, path in enumerate(scattered.buckets) if path.exists()}
    return {
        number: Partition(SourceConfig(path=path, format="arrow"), path, groups=_all_groups(path))
        for number, path in written.items()
    }


def _all_groups(path: str) -> tuple[int, ...]:
    with pa.memory_map(path) as content, pa.ipc.open_file(content) as reader:
        return tuple(range(reader.num_record_batches))


def _write_buckets(scattered: Scattered, paths: Sequence[Path]) -> None:
    schema: pa.Schema | None = None
    with ExitStack() as stack:
        writers: dict[int, pa.RecordBatchFileWriter] = {}
        for partition in scattered.partitions:
            for table in read_segment(Segment(partition), scattered.columns):
                rows = pa.table({name: plain(table[name]) for name in table.column_names})
                schema = schema or rows.schema
                rows = _cast(rows, schema, partition.path)
                codes, texts = as_codes(rows[scattered.request_key], scattered.request_key)
                bucket = bucket_of(hash64(texts), len(paths))[codes]
                order = np.argsort(bucket, kind="stable")
                rows, edges = rows.take(pa.array(order)), np.searchsorted(bucket[order], np.arange(len(paths) + 1))
                for number in np.flatnonzero(np.diff(edges)).tolist():
                    if number not in writers:
                        sink = stack.enter_context(pa.OSFile(str(paths[number]), "wb"))
                        writers[number] = stack.enter_context(pa.ipc.new_file(sink, schema))
                    writers[number].write_table(rows[edges[number] : edges[number + 1]])


def _cast(rows: pa.Table, schema: pa.Schema, file: str) -> pa.Table:
    try:
        return rows.cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{file} has columns of different types in its parts: {error}", "write the file as Parquet"
        ) from error
