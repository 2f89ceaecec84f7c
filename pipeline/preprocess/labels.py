"""Labels and row weights: checking and reading them, and on which rows a task is defined."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ConfigError, DataError
from pipeline.preprocess.normalize import parse_numbers
from pipeline.preprocess.sources import locate
from pipeline.preprocess.text import as_codes, as_text
from pipeline.schema import LabelValue, Schema, TaskSchema

BINARY_TEXTS = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0}
# Of a value that is no label.
WRONG = -1.0


def check_classes(schema: Schema) -> None:
    """Raises a ConfigError when two classes of a task have the same label value, compared as the text that they are."""
    for task in schema.tasks:
        names: dict[str, str] = {}
        for name, value in (task.classes or {}).items():
            text = _text_of(value)
            if text in names:
                raise ConfigError(
                    f"task {task.name!r}: classes {names[text]!r} and {name!r} have the same label value {text!r}",
                    "give each class a value of its own",
                )
            names[text] = name


def read_labels(schema: Schema, table: pa.Table, source: str, first_row: int = 0) -> dict[str, np.ndarray]:
    """The float64 labels of each task, NaN for null; that of a multiclass task is the place of the class.

    `source` and `first_row` say in messages where the first row of `table` lies.

    Raises:
        DataError: a value is no label of the task's kind.
    """
    read = {
        "binary": _read_binary,
        "multiclass": _read_multiclass,
        "regression": _read_regression,
        "watch_time": _read_watch_time,
    }
    return {task.name: read[task.kind](task, table, source, first_row) for task in schema.tasks}


def _read_binary(task: TaskSchema, table: pa.Table, source: str, first_row: int) -> np.ndarray:
    if task.positive is None:
        labels = _look_up(task, table, source, BINARY_TEXTS, WRONG)
    else:
        labels = _look_up(task, table, source, {_text_of(task.positive): 1.0}, 0.0)
    fix = "give `positive`, the value that counts as 1, or correct the column"
    _refuse(labels == WRONG, task, table, source, first_row, "a binary label is 0, 1 or null", fix)
    return labels


def _read_multiclass(task: TaskSchema, table: pa.Table, source: str, first_row: int) -> np.ndarray:
    classes = task.classes or {}
    places = {_text_of(value): float(place) for place, value in enumerate(classes.values())}
    labels = _look_up(task, table, source, places, WRONG)
    listed = ", ".join(f"{name}: {value}" for name, value in classes.items())
    rule = f"a multiclass label is the value of one of its classes ({listed}) or null"
    _refuse(labels == WRONG, task, table, source, first_row, rule, "add the value to `classes`, or correct the column")
    return labels


def _look_up(task: TaskSchema, table: pa.Table, source: str, known: Mapping[str, float], other: float) -> np.ndarray:
    """The label of each row by its text: `other` for a text that is not known, NaN for null, WRONG for NaN."""
    column = table.column(task.label)
    codes, texts = as_codes(column, f"the label of task {task.name!r} in {source}")
    labels: np.ndarray = np.array([*(known.get(text, other) for text in texts.to_pylist()), np.nan])[codes]
    # The code of NaN is that of null, and a label that is NaN was computed wrongly.
    labels[(codes < 0) & ~np.asarray(pc.is_null(column))] = WRONG
    return labels


def _text_of(value: LabelValue) -> str:
    text: str = as_text(pa.array([str(value)]), "a label value")[0].as_py()
    return text


def _read_regression(task: TaskSchema, table: pa.Table, source: str, first_row: int) -> np.ndarray:
    numbers = parse_numbers(table, task.label, f"task {task.name!r}", source, first_row)
    fix = "correct the column, or write null where there is no label"
    rule = "a regression label is a finite number or null"
    _refuse(numbers.is_non_finite, task, table, source, first_row, rule, fix)
    return numbers.values


def _read_watch_time(task: TaskSchema, table: pa.Table, source: str, first_row: int) -> np.ndarray:
    numbers = parse_numbers(table, task.label, f"task {task.name!r}", source, first_row)
    is_wrong = numbers.is_non_finite | (numbers.values < 0)
    fix = "correct the column, or write null where the time is not known"
    _refuse(is_wrong, task, table, source, first_row, "a watch time is a finite number of at least 0, or null", fix)
    return numbers.values


def _refuse(
    is_wrong: np.ndarray, task: TaskSchema, table: pa.Table, source: str, first_row: int, rule: str, fix: str
) -> None:
    """Raises a DataError that names the first row (bool) whose label breaks the rule."""
    if is_wrong.any():
        value = _show_value(table, task.label, int(np.argmax(is_wrong)), source, first_row)
        raise DataError(f"task {task.name!r}: label {value}: {rule}", fix)


def _show_value(table: pa.Table, column: str, row: int, source: str, first_row: int) -> str:
    value = table.column(column)[row].as_py()
    shown = "null" if value is None else repr(value) if isinstance(value, str) else str(value)
    return f"{shown} in {locate(table, column, row, source, first_row)}"


def read_weights(column: str, table: pa.Table, source: str, first_row: int = 0) -> np.ndarray:
    """The float32 weight of each row in the losses, at least 0.

    Raises:
        DataError: a weight is null, below 0, or no finite number.
    """
    weights = parse_numbers(table, column, "weight", source, first_row).values
    is_wrong = ~(weights >= 0)  # also where it is NaN
    if is_wrong.any():
        value = _show_value(table, column, int(np.argmax(is_wrong)), source, first_row)
        raise DataError(
            f"weight {value}: the weight of a row is a finite number of at least 0",
            "correct the column; give 1 where a row has no weight of its own",
        )
    return weights.astype(np.float32)


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
