"""Writes one shard: an Arrow IPC file that exists whole or not at all, and its entry for the index."""

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from pipeline import storage
from pipeline.files import retry, sha256_of, write_atomically
from pipeline.preprocess.config import Compression
from pipeline.shards.manifest import ROWS_PER_BATCH_KEY, ShardEntry, Split

ROWS_PER_RECORD_BATCH = 65_536
# Of a compressed shard a reader unpacks whole record batches. Smaller ones take more bytes and, since each column of
# each batch is unpacked by itself, not much less time.
ROWS_PER_COMPRESSED_BATCH = 2_048
ZSTD_LEVEL = 3


class ShardWriter(NamedTuple):
    """Writes shards into a folder and, of a dataset that is kept elsewhere, copies each to that place too."""

    folder: Path
    compression: Compression = "none"
    remote: str | None = None

    def write(self, name: str, table: pa.Table, split: Split) -> ShardEntry:
        entry = write_shard(self.folder / name, table, split, self.compression)
        if self.remote is not None:
            storage.upload(self.folder / name, storage.join(self.remote, name))
        return entry


def write_shard(path: Path, table: pa.Table, split: Split, compression: Compression = "none") -> ShardEntry:
    """Writes `table` (the layout of `shard_schema`, any number of rows, not 0) to `path`."""
    rows_per_batch, options = ROWS_PER_RECORD_BATCH, pa.ipc.IpcWriteOptions()
    whole = table.combine_chunks().replace_schema_metadata()
    if compression == "zstd":
        rows_per_batch = ROWS_PER_COMPRESSED_BATCH
        codec = pa.Codec("zstd", compression_level=ZSTD_LEVEL)
        options = pa.ipc.IpcWriteOptions(compression=codec, use_threads=False)
        whole = whole.replace_schema_metadata({ROWS_PER_BATCH_KEY: str(rows_per_batch)})

    def write(temporary: Path) -> None:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, whole.schema, options=options) as writer:
            writer.write_table(whole, max_chunksize=rows_per_batch)

    retry(lambda: write_atomically(path, write, table.nbytes), path)
    return ShardEntry(
        path=path.name, split=split, rows=table.num_rows, bytes=path.stat().st_size, sha256=sha256_of(path)
    )
