"""Reads the training rows of a dataset as batches of tensors, in one of several ways, as often as it is asked to.

    python -m pipeline.benchmark.read.run WAY PASSES CONFIG OUT.json

Work begins after the first batch, when the way is set up. What is written says how many rows there were, sums of what
they held, and the seconds that went by between asking for a batch and having it, without those of the sums.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import ray
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from pipeline.benchmark.train.arrays import read_split
from pipeline.run_config import RunConfig, load_run_config
from pipeline.shards.manifest import DENSE_COLUMN, LABELS_COLUMN, SPARSE_PREFIX, read_index
from pipeline.train.batches import Batches
from pipeline.train.run import one_rank_group

# Of Ray Data, in rows; as many as gatehouse's windows of all lanes hold.
SHUFFLE_ROWS = 65_536
# Ids, numbers and labels of a batch.
Tensors = tuple[Tensor, Tensor, Tensor]


def read_gatehouse(config: RunConfig) -> Iterator[Tensors]:
    """The reader of `gatehouse train`: shuffled, every id checked, as a KeyedJaggedTensor."""
    with one_rank_group(config):
        for batch in Batches(config, read_index(config.dataset_dir)).training(0, 0):
            real = int((batch.weights > 0).sum())  # the last batch ends with padding
            yield batch.sparse.values(), batch.dense[:real], batch.labels[:real]


def read_data_loader(config: RunConfig) -> Iterator[Tensors]:
    """Shuffled, from tensors that hold all rows in memory."""
    rows = TensorDataset(*map(torch.from_numpy, _matrices(read_split(config.dataset_dir, "train"))))
    yield from DataLoader(rows, config.train.global_batch_size, shuffle=True)


def read_pyarrow_dataset(config: RunConfig) -> Iterator[Tensors]:
    """In the order of the shards."""
    batches = ds.dataset(_shards(config), format="ipc").to_batches(batch_size=config.train.global_batch_size)
    for batch in batches:
        ids, numbers, labels = map(torch.from_numpy, _matrices(pa.Table.from_batches([batch])))
        yield ids, numbers, labels


def read_ray_data(config: RunConfig) -> Iterator[Tensors]:
    """Shuffled within a buffer, from the shards."""
    ray.init(num_cpus=torch.get_num_threads(), log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.from_items([{"path": path} for path in _shards(config)]).map_batches(_open, batch_size=1)
    for batch in rows.iter_torch_batches(
        batch_size=config.train.global_batch_size, local_shuffle_buffer_size=SHUFFLE_ROWS
    ):
        yield batch["ids"], batch["numbers"], batch["labels"]


WAYS: dict[str, Callable[[RunConfig], Iterator[Tensors]]] = {
    "gatehouse": read_gatehouse,
    "DataLoader": read_data_loader,
    "pyarrow.dataset": read_pyarrow_dataset,
    "Ray Data": read_ray_data,
}


def _shards(config: RunConfig) -> list[str]:
    return [str(config.dataset_dir / shard.path) for shard in read_index(config.dataset_dir).of_split("train")]


def _open(paths: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    shards = [pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in paths["path"]]
    return dict(zip(("ids", "numbers", "labels"), _matrices(pa.concat_tables(shards)), strict=True))


def _matrices(rows: pa.Table) -> list[np.ndarray]:
    """Ids as int64, numbers and labels, each [rows, columns]."""
    ids = [rows[name].to_numpy() for name in rows.column_names if name.startswith(SPARSE_PREFIX)]
    lists = [rows[name].combine_chunks() for name in (DENSE_COLUMN, LABELS_COLUMN)]
    return [
        np.stack(ids, axis=1).astype(np.int64),
        # A copy: what is mapped cannot be written to.
        *(np.array(one.flatten()).reshape(len(one), -1) for one in lists),
    ]


def main(way: str, passes: str, config_path: str, out: str) -> None:
    config = load_run_config(config_path)
    batches = chain.from_iterable(WAYS[way](config) for _ in range(int(passes)))
    batch: Tensors | None = next(batches)
    print("read ...", flush=True)
    seconds, num_rows, sums = 0.0, 0, np.zeros(3)
    while batch is not None:
        num_rows += len(batch[-1])
        sums += [tensor.sum(dtype=torch.float64).item() for tensor in batch]
        started = time.perf_counter()
        batch = next(batches, None)
        seconds += time.perf_counter() - started
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps({"rows": num_rows, "sums": sums.tolist(), "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
