"""Labels: checking and reading them, and on which rows a task is defined."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import DataError
from pipeline.preprocess.normalize import parse_numbers
from pipeline.preprocess.sources import locate
from pipeline.preprocess.text import as_codes, as_text
from pipeline.schema import Schema, TaskSchema

BINARY_TEXTS = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0}


def read_labels(schema: Schema, table: pa.Table, source: str, first_row: int = 0) -> dict[str, np.ndarray]:
    """The float64 labels of each task, NaN for null.

    `source` and `first_row` say in messages where the first row of `table` lies.

    Raises:
        DataError: a binary label is not 0, 1 or null, or a regression label is no finite number.
    """
    read = {"binary": _read_binary, "regression": _read_regression}
    return {task.name: read[task.kind](task, table, source, first_row) for task in schema.tasks}


def _read_binary(task: TaskSchema, table: pa.Table, source: str, first_row: int) -> np.ndarray:
    column = table.column(task.label)
    codes, texts = as_codes(column, f"the label of task {task.name!r} in {source}")
    if task.positive is not None:
        positive = as_text(pa.array([task.positive]), "positive")[0].as_py()
        values = np.asarray(pc.equal(texts, positive)).astype(np.float64)
    else:
        values = np.array([BINARY_TEXTS.get(text, -1.0) for text in texts.to_pylist()], np.float64)
    labels: np.ndarray = np.append(values, np.nan)[codes]
    # The code of NaN is that of null, and a label that is NaN was computed wrongly.
    is_wrong = (labels == -1.0) | ((codes < 0) & ~np.asarray(pc.is_null(column)))
    if is_wrong.any():
        row = int(np.argmax(is_wrong))
        raise DataError(
            f"task {task.name!r}: label {_shown(column, row)} in {locate(table, task.label, row, source, first_row)}: "
            "a binary label is 0, 1 or null",
            "give `positive`, the value that counts as 1, or correct the column",
        )
    return labels


def _read_regression(task: TaskSchema, table: pa.Table, source: str, first_row: int) -> np.ndarray:
    numbers = parse_numbers(table, task.label, f"task {task.name!r}", source, first_row)
    if numbers.is_non_finite.any():
        row = int(np.argmax(numbers.is_non_finite))
        raise DataError(
            f"task {task.name!r}: label {_shown(table.column(task.label), row)} in "
            f"{locate(table, task.label, row, source, first_row)}: a regression label is a finite number or null",
            "correct the column, or write null where there is no label",
        )
    return numbers.values


def _shown(column: pa.ChunkedArray, row: int) -> str:
    value = column[row].as_py()
    return repr(value) if isinstance(value, str) else str(value)


def to_array(labels: Mapping[str, np.ndarray]) -> pa.FixedSizeListArray:
    """The labels of all tasks, in the order of the mapping, as the `labels` column of a shard."""
    stacked = np.stack(list(labels.values()), axis=1).astype(np.float32).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(stacked, mask=np.isnan(stacked)), len(labels))


def defined_rows(schema: Schema, labels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """On which rows (bool) each task is defined: its label is not null, and its space's label is 1, and so on up."""
    in_space = {"": np.ones(len(labels[schema.tasks[0].name]), bool)}
    defined = {}
    for task in schema.tasks:
        space = in_space[task.space or ""]
        defined[task.name] = space & ~np.isnan(labels[task.name])
        in_space[task.name] = space & (labels[task.name] == 1.0)
    return defined
