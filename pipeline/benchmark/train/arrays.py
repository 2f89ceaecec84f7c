"""What peers are given of the train benchmark: a dataset's rows as arrays in files, and the sizes of their model."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.benchmark.train.workload import Workload
from pipeline.shards.manifest import DENSE_COLUMN, LABELS_COLUMN, SPARSE_PREFIX, SPLITS, Split, read_index

NUMBERS, LABELS = "numbers", "labels"


def write_arrays(folder: Path, dataset: Path) -> None:
    """Writes an .npy file of int32 ids per feature, one of all numbers and one of all labels, for each split."""
    index = read_index(dataset)
    for split in SPLITS:
        (folder / split).mkdir(parents=True, exist_ok=True)
        rows = read_split(dataset, split)
        for feature in index.data_schema.sparse_features:
            np.save(folder / split / f"{feature.name}.npy", rows[SPARSE_PREFIX + feature.name].to_numpy())
        for name, column in ((NUMBERS, DENSE_COLUMN), (LABELS, LABELS_COLUMN)):
            lists = rows[column].combine_chunks()
            np.save(folder / split / f"{name}.npy", lists.flatten().to_numpy().reshape(len(lists), -1))


def read_split(dataset: Path, split: Split) -> pa.Table:
    """All rows of a split, in the order of its shards."""
    paths = [dataset / shard.path for shard in read_index(dataset).of_split(split)]
    return pa.concat_tables([pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in paths])


def describe_model(workload: Workload, body: str) -> dict[str, Any]:
    """The sizes of the model, its tasks, and its batches."""
    sizes = workload.sizes
    return {
        "body": body,
        "table_rows": workload.table_rows,
        "embedding_dim": sizes.embedding_dim,
        "expert_widths": sizes.expert_widths,
        "tower_widths": sizes.tower_widths,
        "num_experts": sizes.num_experts,
        "num_levels": sizes.num_levels,
        "num_shared_experts": sizes.num_shared_experts,
        "num_task_experts": sizes.num_task_experts,
        "tasks": list(workload.labels),
        "batch_size": sizes.batch_size,
        "window_steps": sizes.window_steps,
    }
