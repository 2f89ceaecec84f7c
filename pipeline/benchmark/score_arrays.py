"""What peers are given of the score benchmark: encoded rows as arrays in files, and the sizes of the model they build.

Ids count from 1, for 0 is what lists are padded with, which both peers leave out of their means.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.benchmark.candidate_rows import CandidateRows, candidate_rows
from pipeline.config import read_config
from pipeline.preprocess.transform import FittedTransform
from pipeline.run_config import load_run_config
from pipeline.shards.manifest import DENSE_COLUMN, SPARSE_PREFIX, read_index

NUMBERS = "numbers"


def write_arrays(folder: Path, config_path: Path, num_rows: int) -> dict[str, Any]:
    """Writes the first rows of a run's candidates to `folder`, an .npy file per feature, and describes them.

    `sparse` lists the features with their table and its rows; `numbers` is one float32 file for all numeric inputs.
    """
    config = load_run_config(config_path)
    index, model = read_index(config.dataset_dir), read_config(config_path)["model"]
    rows = _first(candidate_rows(config, FittedTransform.load(config.dataset_dir, config.data_schema)), num_rows)
    folder.mkdir(parents=True, exist_ok=True)
    sparse = []
    for feature in config.data_schema.sparse_features:
        np.save(folder / f"{feature.name}.npy", _ids(rows[SPARSE_PREFIX + feature.name].combine_chunks()))
        table = feature.table_name
        sparse.append({"name": feature.name, "table": table, "num_embeddings": index.table_rows[table] + 1})
    dense = rows[DENSE_COLUMN].combine_chunks()
    np.save(folder / f"{NUMBERS}.npy", dense.flatten().to_numpy().reshape(len(dense), -1))
    return {
        "folder": str(folder),
        "num_rows": num_rows,
        "sparse": sparse,
        "embedding_dim": model["front_end"]["embedding_dim"],
        "num_experts": model["body"]["num_experts"],
        "expert_widths": model["body"]["widths"],
        "tower_widths": model["tower_widths"],
        "tasks": [{"name": task.name, "kind": task.kind} for task in config.data_schema.tasks],
    }


def _first(blocks: Iterator[CandidateRows], num_rows: int) -> pa.Table:
    tables: list[pa.Table] = []
    while sum(map(len, tables)) < num_rows:
        tables.append(next(blocks).features)
    return pa.concat_tables(tables).slice(0, num_rows)


def _ids(column: pa.Array) -> NDArray[np.int32]:
    """[rows], or [rows, longest list] of lists, with 0 where a list has ended."""
    if not pa.types.is_list(column.type):
        return np.asarray(column).astype(np.int32) + 1
    lengths = np.asarray(pc.list_value_length(column))
    ids = np.zeros((len(column), lengths.max()), np.int32)
    ids[np.arange(ids.shape[1]) < lengths[:, None]] = np.asarray(column.flatten()) + 1
    return ids
