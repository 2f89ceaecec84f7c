"""Parts of a prediction table that are made up, and what is measured on them."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from pipeline.evaluate.measure import measure as measuring
from pipeline.evaluate.measure.measure import Measurement, measure
from pipeline.evaluate.metrics.resample import mix
from pipeline.evaluate.prediction_table import Measured
from pipeline.executor import InProcessExecutor

CLASSES = ("a", "b", "c")
TASKS = {
    "binary": Measured("task", "binary", None, "own space", ("task",), ("task",)),
    "regression": Measured("task", "regression", None, "own space", ("task",), ("task",)),
    "watch_time": Measured("task", "watch_time", None, "own space", ("task",), ("task",)),
    "multiclass": Measured("task", "multiclass", None, "own space", tuple(f"task_{c}" for c in CLASSES), ("task",)),
}


def hash_keys(keys: Sequence[Any]) -> pa.Array:
    """A hash per key, null for None."""
    codes = {key: code for code, key in enumerate(sorted({*keys} - {None}, key=repr), start=1)}
    hashes = mix(np.array([codes.get(key, 0) for key in keys], np.uint64))
    return pa.array(hashes, mask=np.array([key is None for key in keys], bool))


def write_parts(folder: Path, columns: Mapping[str, Any], part_of_row: NDArray[np.int64]) -> list[Path]:
    """A part per number, each of its rows in the order of their units; slices are given as lists of texts."""
    columns = dict(columns)
    for name in columns:
        if name.startswith("slice_"):
            values = sorted({*columns[name]} - {None})
            codes = pa.array([None if value is None else values.index(value) for value in columns[name]], pa.int32())
            columns[name] = pa.DictionaryArray.from_arrays(codes, pa.array(values, pa.string()))
    paths = []
    for part in range(int(part_of_row.max(initial=0)) + 1):
        rows = np.flatnonzero(part_of_row == part)
        rows = rows[np.argsort(np.asarray(columns["unit_hash"])[rows], kind="stable")]
        batch = pa.RecordBatch.from_pydict({name: pa.array(own).take(pa.array(rows)) for name, own in columns.items()})
        paths.append(folder / f"part-{part:05d}.arrow")
        with pa.OSFile(str(paths[-1]), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
    return paths


def make_columns(
    prediction: ArrayLike,
    label: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    user: Sequence[Any] | None = None,
    request: Sequence[Any] | None = None,
    baseline: ArrayLike | None = None,
    truth: ArrayLike | None = None,
    slices: Mapping[str, Sequence[str | None]] | None = None,
) -> dict[str, Any]:
    """The columns of a table with one task; a prediction per row, [N], or one per row and class, [N, C]."""
    labels = np.asarray(label, np.float64)
    num_rows = len(labels)
    keys = {name: hash_keys(own) for name, own in (("user", user), ("request", request)) if own is not None}
    row_hash = mix(np.arange(1, num_rows + 1, dtype=np.uint64) << np.uint64(32))
    unit = next(iter(keys.values()), pa.array(row_hash))
    columns: dict[str, Any] = {"unit_hash": np.where(unit.is_valid(), unit.fill_null(0), row_hash), **keys}
    columns |= {"weight": np.ones(num_rows) if weight is None else np.asarray(weight, np.float64), "label_task": labels}
    for model, outputs in (("prediction", prediction), ("baseline", baseline), ("truth", truth)):
        if outputs is not None:
            values = np.asarray(outputs, np.float64)
            names = [f"task_{one}" for one in CLASSES[: values.shape[1]]] if values.ndim == 2 else ["task"]
            own = values.T if values.ndim == 2 else [values]
            columns |= {f"{model}_{name}": column for name, column in zip(names, own, strict=True)}
    return columns | {f"slice_{name}": own for name, own in (slices or {}).items()}


def measure_columns(
    columns: Mapping[str, Any],
    things: Sequence[Measured],
    *,
    num_parts: int = 1,
    seed: int = 0,
    max_rows: int = 1 << 18,
    num_threads: int = 1,
    **options: Any,
) -> Measurement:
    """What is measured of rows that are dealt at random into parts."""
    part_of_row = np.random.default_rng(seed).integers(0, num_parts, len(columns["weight"]))
    dimensions = [name.removeprefix("slice_") for name in columns if name.startswith("slice_")]
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(measuring, "MAX_RANGE_ROWS", max_rows):
        parts = write_parts(Path(folder), columns, part_of_row)
        measured = measure(parts, things, dimensions, InProcessExecutor(num_threads), **options)
        assert sorted(Path(folder).iterdir()) == parts
    return measured


def measure_rows(kind: str, prediction: ArrayLike, label: ArrayLike, **options: Any) -> dict[str, dict[str, Any]]:
    """The metrics of one task, by name; options are those of `make_columns` and of `measure_columns`."""
    own = {"weight", "user", "request", "baseline", "truth", "slices"}
    columns = make_columns(prediction, label, **{name: options.pop(name) for name in own & options.keys()})
    options.setdefault("num_replicates", 10)
    (task,) = measure_columns(columns, [TASKS[kind]], **options).tasks
    metrics: dict[str, dict[str, Any]] = task["metrics"]
    return metrics
