"""A simulated feed that tests only read, and its tables and columns."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.simulate.run import simulate

NUM_ROWS = 60_003
NUM_DAYS = 7
BINARY_TASKS = ("click", "like", "purchase")

Floats = npt.NDArray[np.float64]


def simulate_feed(out: Path) -> Path:
    simulate(out, NUM_ROWS, seed=3)
    return out


def read(path: Path) -> pa.Table:
    """One file, or all files of a folder in the order of their names."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return pa.concat_tables([pq.read_table(file) for file in files]).combine_chunks()


def numbers(table: pa.Table, column: str) -> Floats:
    return np.asarray(table[column].to_numpy(), dtype=np.float64)
