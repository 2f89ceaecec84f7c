"""Grows a table of a million rows by a tenth on a warm start, and checks and measures what happens to it.

    .venv/bin/python infra/benchmarks/grown_table.py --folder runs/grown

A small log of the demo, with ids drawn from a million users, is trained for one epoch; then a tenth of its rows gets
users that are new. Prints how many old rows are bit-equal after one step, how many new ones are trained after an epoch,
and the seconds and the memory of the warm start.
"""

import argparse
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from pipeline.config import build, read_config  # noqa: E402
from pipeline.errors import StoppedError  # noqa: E402
from pipeline.executor import InProcessExecutor  # noqa: E402
from pipeline.feature_kinds import NUM_RESERVED_ROWS  # noqa: E402
from pipeline.preprocess.columns.hashing import hash64  # noqa: E402
from pipeline.preprocess.features.vocabulary import FILE_SCHEMA, Vocabulary  # noqa: E402
from pipeline.preprocess.run import preprocess  # noqa: E402
from pipeline.run_config import RunConfig  # noqa: E402
from pipeline.shards.manifest import SPARSE_PREFIX, read_index, write_index  # noqa: E402
from pipeline.shards.vocabularies import vocabulary_path  # noqa: E402
from pipeline.shards.writer import write_shard  # noqa: E402
from pipeline.simulate.run import simulate  # noqa: E402
from pipeline.train.checkpoints.checkpoint import list_checkpoints  # noqa: E402
from pipeline.train.checkpoints.reader import load_tensors  # noqa: E402
from pipeline.train.checkpoints.warm_start import warm_start  # noqa: E402
from pipeline.train.guards.stopping import Signals  # noqa: E402
from pipeline.train.rank import train_rank  # noqa: E402
from pipeline.train.run import one_rank_group, train  # noqa: E402

TABLE = "user_id"
NUM_ROWS, NUM_NEW, DIM = 1_000_000, 100_000, 64
LOG_ROWS = 200_000
NAME = f"model.front_end.embeddings.embedding_bags.{TABLE}.weight"
SIZES = {f"model.{NAME}": (DIM,), f"optimizer.{NAME}.{TABLE}.momentum1": ()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    folder = parser.parse_args().folder
    simulate(folder / "log", LOG_ROWS, seed=1)
    first = _config(folder, "first")
    preprocess(first, InProcessExecutor(), overwrite=True)
    _set_users(first, NUM_ROWS, np.random.default_rng(1).integers(NUM_RESERVED_ROWS, NUM_ROWS, LOG_ROWS))
    champion = train(first, overwrite=True)
    old_weight, old_state = _tensors(champion, NUM_ROWS)

    second = _config(folder, "second", warm_start=str(champion))
    preprocess(second, InProcessExecutor(), overwrite=True)
    users = np.random.default_rng(2).integers(NUM_RESERVED_ROWS, NUM_ROWS, LOG_ROWS)
    users[::10] = NUM_ROWS + np.random.default_rng(3).integers(0, NUM_NEW, len(users[::10]))
    _set_users(second, NUM_ROWS + NUM_NEW, users)

    with _timing() as figures:
        _one_step(second)
    weight, state = _tensors(list_checkpoints(second.checkpoints_dir)[-1], NUM_ROWS + NUM_NEW)
    is_seen = state[:NUM_ROWS] > old_state
    same = (weight[:NUM_ROWS] == old_weight).all(dim=1) & (state[:NUM_ROWS] == old_state)
    assert bool((same | is_seen).all())
    print(
        f"old rows: {int(same.sum()):,} bit-equal with their state, the other {int(is_seen.sum()):,} in the first batch"
    )

    _, state = _tensors(train(second, resume=True), NUM_ROWS + NUM_NEW)
    is_trained = state[NUM_ROWS:] > 0
    seen = users[: read_index(second.dataset_dir).num_rows("train")]
    num_seen = len(np.unique(seen[seen >= NUM_ROWS]))
    print(f"new rows: {int(is_trained.sum()):,} trained in an epoch that has {num_seen:,} of the {NUM_NEW:,}")
    table_mib = (NUM_ROWS + NUM_NEW) * (DIM + 1) * 4 / 2**20
    print(
        f"warm start: {figures['seconds']:.2f} s, {figures['mib']:.0f} MiB more at the peak; "
        f"the table has {table_mib:.0f} MiB with its state"
    )


def _config(folder: Path, name: str, **train_changes: Any) -> RunConfig:
    settings = read_config(ROOT / "jobs" / "configs" / "demo.yaml")
    settings |= {"workspace": str(folder / name), "inputs": str(folder / "log")}
    settings["model"]["front_end"] = {"embedding_dims": {TABLE: DIM}}
    settings["train"] |= {"max_epochs": 1, "device": "cpu", **train_changes}
    return build(RunConfig, settings, "demo.yaml")


def _set_users(config: RunConfig, num_rows: int, users: np.ndarray) -> None:
    """Gives the log's rows these users, of a vocabulary that fills the table."""
    values = [f"user {number}" for number in range(num_rows - NUM_RESERVED_ROWS)]
    columns = [pa.array(values), pa.array([1] * len(values)), pa.array(hash64(pa.array(values)))]
    batch = pa.RecordBatch.from_arrays(columns, schema=FILE_SCHEMA)
    Vocabulary((batch,)).save(vocabulary_path(config.dataset_dir, TABLE))
    index, shards, done = read_index(config.dataset_dir), [], 0
    for shard in index.shards:
        path = config.dataset_dir / shard.path
        table = pa.ipc.open_file(pa.OSFile(str(path))).read_all()
        place = table.column_names.index(SPARSE_PREFIX + TABLE)
        ids = pa.array(users[done : done + len(table)], table.schema.field(place).type)
        shards.append(write_shard(path, table.set_column(place, table.schema.field(place), ids), shard.split))
        done += len(table)
    rows = {**index.table_rows, TABLE: num_rows}
    write_index(config.dataset_dir, index.model_copy(update={"shards": tuple(shards), "table_rows": rows}))


def _one_step(config: RunConfig) -> None:
    """The warm start and one step."""
    looks = iter([False, True])
    with one_rank_group(config):
        try:
            train_rank(config, Signals(lambda: next(looks)))
        except StoppedError:
            return
    raise AssertionError("the run was not stopped")


@contextmanager
def _timing() -> Iterator[dict[str, float]]:
    """Seconds and growth of the peak memory of the warm start inside the block."""
    figures: dict[str, float] = {}
    real = warm_start

    def measured(*arguments: Any) -> Any:
        before, started = _peak_mib(), time.perf_counter()
        report = real(*arguments)
        figures.update(seconds=time.perf_counter() - started, mib=_peak_mib() - before)
        return report

    with mock.patch("pipeline.train.checkpoints.resume.warm_start", measured):
        yield figures


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _tensors(checkpoint: Path, num_rows: int) -> list[torch.Tensor]:
    tensors = {name: torch.zeros(num_rows, *size) for name, size in SIZES.items()}
    load_tensors(checkpoint, tensors, is_distributed=False)
    return list(tensors.values())


if __name__ == "__main__":
    main()
