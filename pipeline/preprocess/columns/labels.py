"""Labels and row weights: checking and reading them, and on which rows a task is defined."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ConfigError, DataError
from pipeline.preprocess.columns.numbers import parse_numbers
from pipeline.preprocess.columns.text import as_codes, as_text
from pipeline.preprocess.raw_files.sources import locate
from pipeline.schema import LabelValue, Schema, TaskSchema

BINARY_TEXTS = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0}
# Of a text that is no label.
WRONG = -1.0
# A value longer than this is cut in messages.
MAX_SHOWN = 80


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


class Judged(NamedTuple):
    """A column of labels or weights: float64 values, NaN for null and where wrong, and the rule for them."""

    values: np.ndarray
    is_wrong: np.ndarray
    rule: str
    fix: str


def read_labels(schema: Schema, table: pa.Table, source: str, first_row: int = 0) -> dict[str, np.ndarray]:
    """The float64 labels of each task, NaN for null; that of a multiclass task is the place of the class.

    `source` and `first_row` say in messages where the first row of `table` lies.

    Raises:
        DataError: a value is no label of the task's kind.
    """
    labels = {}
    for task in schema.tasks:
        judged = judge_labels(task, table, source)
        _refuse(judged, f"task {task.name!r}: label", table, task.label, source, first_row)
        labels[task.name] = judged.values
    return labels


def judge_labels(task: TaskSchema, table: pa.Table, source: str) -> Judged:
    """The labels of one task as `read_labels` reads them, with the rows whose value is no label.

    Raises:
        DataError: the column's type holds no label.
    """
    match task.kind:
        case "binary":
            return _judge_binary(task, table, source)
        case "multiclass":
            return _judge_multiclass(task, table, source)
        case "regression":
            return _judge_number(task, table, source, "a regression label is a finite number or null", -math.inf)
        case "watch_time":
            return _judge_number(task, table, source, "a watch time is a finite number of at least 0, or null", 0.0)


def _judge_binary(task: TaskSchema, table: pa.Table, source: str) -> Judged:
    if task.positive is None:
        known, other = BINARY_TEXTS, WRONG
    else:
        known, other = {_text_of(task.positive): 1.0}, 0.0
    fix = "give `positive`, the value that counts as 1, or correct the column"
    return _look_up(task, table, source, known, other, "a binary label is 0, 1 or null", fix)


def _judge_multiclass(task: TaskSchema, table: pa.Table, source: str) -> Judged:
    classes = task.classes or {}
    places = {_text_of(value): float(place) for place, value in enumerate(classes.values())}
    listed = ", ".join(f"{name}: {value}" for name, value in classes.items())
    rule = f"a multiclass label is the value of one of its classes ({listed}) or null"
    return _look_up(task, table, source, places, WRONG, rule, "add the value to `classes`, or correct the column")


def _look_up(
    task: TaskSchema, table: pa.Table, source: str, known: Mapping[str, float], other: float, rule: str, fix: str
) -> Judged:
    """The label of each row by its text: `other` for a text that is not known. NaN is wrong, and null is not."""
    column = table.column(task.label)
    codes, texts = as_codes(column, f"the label of task {task.name!r} in {source}")
    labels: np.ndarray = np.array([*(known.get(text, other) for text in texts.to_pylist()), np.nan])[codes]
    # The code of NaN is that of null, and a label that is NaN was computed wrongly.
    is_wrong = (labels == WRONG) | ((codes < 0) & ~np.asarray(pc.is_null(column)))
    return Judged(np.where(is_wrong, np.nan, labels), is_wrong, rule, fix)


def _text_of(value: LabelValue) -> str:
    text: str = as_text(pa.array([str(value)]), "a label value")[0].as_py()
    return text


def _judge_number(task: TaskSchema, table: pa.Table, source: str, rule: str, lowest: float) -> Judged:
    values, is_null, *_ = parse_numbers(table, task.label, f"task {task.name!r}", source)
    is_wrong = ~is_null & ~(values >= lowest)  # also where it is NaN
    fix = "correct the column, or write null where there is no label"
    return Judged(np.where(is_wrong, np.nan, values), is_wrong, rule, fix)


def read_weights(column: str, table: pa.Table, source: str, first_row: int = 0) -> np.ndarray:
    """The float32 weight of each row in the losses, at least 0.

    Raises:
        DataError: a weight is null, below 0, or no finite number.
    """
    judged = judge_weights(column, table, source)
    _refuse(judged, "weight", table, column, source, first_row)
    return judged.values.astype(np.float32)


def judge_weights(column: str, table: pa.Table, source: str) -> Judged:
    """The weights as `read_weights` reads them, in float64, with the rows whose value is no weight."""
    values = parse_numbers(table, column, "weight", source).values
    is_wrong = ~(values >= 0)  # also where it is NaN
    fix = "correct the column; give 1 where a row has no weight of its own"
    rule = "the weight of a row is a finite number of at least 0"
    return Judged(np.where(is_wrong, np.nan, values), is_wrong, rule, fix)


def _refuse(judged: Judged, what: str, table: pa.Table, column: str, source: str, first_row: int) -> None:
    """Raises a DataError that names the first wrong row."""
    if judged.is_wrong.any():
        value = show_value(table, column, int(np.argmax(judged.is_wrong)), source, first_row)
        raise DataError(f"{what} {value}: {judged.rule}", judged.fix)


def show_value(table: pa.Table, column: str, row: int, source: str, first_row: int) -> str:
    """A value and where it lies, for messages."""
    value = table.column(column)[row].as_py()
    shown = "null" if value is None else repr(value) if isinstance(value, str) else str(value)
    shown = shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."
    return f"{shown} in {locate(table, column, row, source, first_row)}"


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


def impossible_rows(schema: Schema, labels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """On which rows (bool) a binary task inside another has label 1 although that other one is known not to be 1.

    A null label is unknown, and then the next space further up decides.
    """
    is_outside: dict[str, np.ndarray] = {}
    impossible: dict[str, np.ndarray] = {}
    for task in schema.tasks:
        own = labels[task.name]
        above = is_outside[task.space] if task.space else np.zeros(len(own), bool)
        is_outside[task.name] = (own == 0) | (np.isnan(own) & above)
        if task.space and task.kind == "binary":
            impossible[task.name] = (own == 1) & above
    return impossible
