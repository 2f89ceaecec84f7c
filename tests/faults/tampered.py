"""Faults to inject and what they leave: the command line as a process, hashes of a folder, rewritten shards."""

import random
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from pipeline.config import RESOLVED_NAME, dump
from pipeline.files import sha256_of
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import DatasetIndex, Split, read_index, write_index
from pipeline.shards.writer import write_shard

ROOT = Path(__file__).parents[2]
DATA_EXIT_CODE = 3


def new_draw() -> random.Random:
    """Draws that differ each time; a failed test shows the seed."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


def gatehouse(
    verb: str, config: RunConfig, *options: str, max_file_bytes: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs one verb as a process of its own, which may write no file larger than `max_file_bytes`."""
    dump(config, config.workspace_dir)
    command = [sys.executable, "-m", "jobs", verb, "--config", str(config.workspace_dir / RESOLVED_NAME), *options]

    def limit() -> None:
        if max_file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))

    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=limit, check=False)


def one_line(error: str) -> str:
    """The one line of an error message: no traceback, nothing else."""
    lines = error.strip().splitlines()
    assert len(lines) == 1, error
    assert lines[0].startswith("error: ")
    return lines[0]


def content_of(folder: Path) -> dict[str, str]:
    """The sha256 of every file below a folder."""
    return {str(file.relative_to(folder)): sha256_of(file) for file in sorted(folder.rglob("*")) if file.is_file()}


def tensors_of(checkpoint: Path) -> dict[str, str]:
    """The sha256 of the files of a checkpoint that hold tensors; the others name the attempt."""
    found = {name: sha256 for name, sha256 in content_of(checkpoint).items() if name.endswith(".distcp")}
    assert found
    return found


def read_shard(path: Path) -> pa.Table:
    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_file(file) as reader:
        return reader.read_all()


def rewrite(config: RunConfig, change: Callable[[pa.Table, Split], pa.Table]) -> DatasetIndex:
    """Replaces every shard by what `change` makes of its rows, if any are left, with an index that fits."""
    folder = config.dataset_dir
    index = read_index(folder)
    shards = []
    for shard in index.shards:
        path = folder / shard.path
        table = change(read_shard(path), shard.split)
        path.unlink()
        if table.num_rows:
            shards.append(write_shard(path, table, shard.split))
    changed = index.model_copy(update={"shards": tuple(shards)})
    write_index(folder, changed)
    return changed


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), pa.field(name, values.type, nullable=False), values)
