"""Writes one shard: an Arrow IPC file that exists whole or not at all, and its entry for the index."""

from pathlib import Path

import pyarrow as pa

from pipeline.files import retry, sha256_of, write_atomically
from pipeline.shards.manifest import ShardEntry, Split

ROWS_PER_RECORD_BATCH = 65_536


def write_shard(path: Path, table: pa.Table, split: Split) -> ShardEntry:
    """Writes `table` (the layout of `shard_schema`, any number of rows, not 0) to `path`."""

    def write(temporary: Path) -> None:
        whole = table.combine_chunks()
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, whole.schema) as writer:
            writer.write_table(whole, max_chunksize=ROWS_PER_RECORD_BATCH)

    retry(lambda: write_atomically(path, write, table.nbytes), path)
    return ShardEntry(
        path=path.name, split=split, rows=table.num_rows, bytes=path.stat().st_size, sha256=sha256_of(path)
    )
