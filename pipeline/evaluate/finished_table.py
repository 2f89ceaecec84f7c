"""A finished table: predictions of any model from anywhere, with labels and keys, read into a prediction table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.config import nearest, or_else
from pipeline.errors import ConfigError, DataError
from pipeline.evaluate.config import SliceConfig
from pipeline.evaluate.dimensions import (
    DAY,
    DEFAULT_BUCKETS,
    NEW_ITEM,
    NEW_USER,
    read_days,
    read_raw_numbers,
    read_texts,
    top_of,
)
from pipeline.evaluate.prediction_table import (
    BASELINE_PREFIX,
    PREDICTION_PREFIX,
    FloatArray,
    Impressions,
    Measured,
    measured_things,
)
from pipeline.evaluate.slices import Dimension, Slicer
from pipeline.evaluate.truth import Truth
from pipeline.executor import Executor
from pipeline.feature_kinds import NumericFeature
from pipeline.preprocess.columns.labels import read_labels, read_weights, show_value
from pipeline.preprocess.columns.numbers import parse_numbers
from pipeline.preprocess.config import SourceConfig
from pipeline.preprocess.raw_files.formats import read_column_names
from pipeline.preprocess.raw_files.sources import Partition, count_rows, list_files, plan_partitions, read_partition
from pipeline.run_config import RunConfig
from pipeline.schema import Schema

REMEDY = "name the column that has it under evaluate.predictions.columns"


class TablePiece(NamedTuple):
    """Some rows of a finished table; `first_row` is the place of the first one among all rows."""

    partition: Partition
    first_row: int


@dataclass(frozen=True)
class FinishedTable:
    """Where each thing stands: `columns` maps its name here to the column there."""

    source: SourceConfig
    schema: Schema
    measured: tuple[Measured, ...]
    columns: dict[str, str]
    weight: str | None
    dimensions: tuple[Dimension, ...]
    slice_columns: tuple[str, ...]

    @property
    def has_baseline(self) -> bool:
        return any(name.startswith(BASELINE_PREFIX) for name in self.columns)

    def plan(self, max_rows: int, executor: Executor) -> list[TablePiece]:
        """The pieces of all files: row groups or record batches together up to so many rows, or one of them."""
        partitions = plan_partitions(self.source, max_rows, executor)
        num_rows = list(executor.map(count_rows, partitions))
        starts = accumulate(num_rows, initial=0)
        rows_from = zip(partitions, starts, num_rows, strict=False)
        pieces = [TablePiece(partition, first_row) for partition, first_row, rows in rows_from if rows]
        if not pieces:
            raise DataError(f"{self.source.path} holds no row", "give a table with rows")
        return pieces

    def read(self, piece: TablePiece, names: Iterable[str]) -> pa.Table:
        """Some raw columns of a piece, by their names here."""
        columns = {name: self.columns[name] for name in names}
        raw = read_partition(piece.partition, list(dict.fromkeys(columns.values())))
        return pa.table({name: raw.column(column) for name, column in columns.items()})

    def impressions(self, piece: TablePiece, slicer: Slicer, truth: Truth | None) -> Impressions:
        """The rows of a piece.

        Raises:
            DataError: a label, a weight or a prediction is none, or the truth lacks a row.
        """
        table, place = self.read(piece, self.columns), (str(piece.partition.path), piece.partition.first_row)
        keys = {
            role: table.column(column)
            for role, column in self.schema.keys.model_dump().items()
            if column and column in table.column_names
        }
        weight = read_weights(self.weight, table, *place).astype(np.float64) if self.weight else None
        return Impressions(
            piece.first_row,
            keys,
            np.ones(table.num_rows) if weight is None else weight,
            read_labels(self.schema, table, *place),
            self._predictions(PREDICTION_PREFIX, table, *place),
            self._predictions(BASELINE_PREFIX, table, *place) if self.has_baseline else {},
            truth.look_up(keys["row"], place[0]) if truth else {},
            slicer.slice(table),
        )

    def _predictions(self, prefix: str, table: pa.Table, source: str, first_row: int) -> dict[str, FloatArray]:
        outputs: dict[str, FloatArray] = {}
        for one in self.measured:
            for output in one.outputs:
                if prefix + output in table.column_names:
                    outputs[output] = _read_prediction(one, table, prefix + output, source, first_row)
                else:  # a joint
                    outputs[output] = np.prod([outputs[task] for task in one.chain], axis=0)
        return outputs


def _read_prediction(one: Measured, table: pa.Table, name: str, source: str, first_row: int) -> FloatArray:
    numbers = parse_numbers(table, name, f"a prediction of {one.name!r}", source)
    is_wrong, rule = numbers.is_wrong, "a prediction is a number"
    if one.kind in ("binary", "multiclass"):
        is_wrong = is_wrong | (numbers.values < 0) | (numbers.values > 1)
        rule = f"a prediction of a {one.kind} task is a probability, from 0 to 1"
    if is_wrong.any():
        value = show_value(table, name, int(np.argmax(is_wrong)), source, first_row)
        raise DataError(f"{name} {value}: {rule}", "correct the column")
    return numbers.values


def open_finished_table(config: RunConfig) -> FinishedTable:
    """The table that `evaluate.predictions` names, with the columns that a report needs.

    Raises:
        ConfigError: a name under `columns` is none, or a slice cannot be made of a finished table.
        DataError: there is no table, or a column is not there.
    """
    section, schema = config.evaluate.predictions, config.data_schema
    assert section is not None
    measured = tuple(measured_things(schema.tasks))
    source = SourceConfig.model_validate(section.model_dump(exclude={"columns"}))
    source = source.model_copy(update={"path": config.input_path(section.path)})
    file = list_files(source)[0]
    present = read_column_names(source, file)
    slices = _check_slices(config.evaluate.slices, schema, section.columns, present)
    slice_columns = tuple(str(schema.keys.time) if one.column == DAY else one.column for one in slices)
    weight = schema.weight if config.evaluate.weighted else None
    row = schema.keys.row if config.evaluate.truth else None
    keys = [name for name in (schema.keys.user, schema.keys.request, row, weight) if name]
    own = [name for one in measured if one.scope == "own space" for name in one.outputs]
    joints = [one.name for one in measured if one.scope == "all impressions"]
    needed = dict.fromkeys([*keys, *schema.label_columns(), *slice_columns, *_prefixed(PREDICTION_PREFIX, own)])
    optional = dict.fromkeys([*_prefixed(PREDICTION_PREFIX, joints), *_prefixed(BASELINE_PREFIX, [*own, *joints])])
    for name in section.columns:
        if name not in needed | optional:
            hint = or_else(nearest(name, needed | optional), "remove it")
            raise ConfigError(f"evaluate.predictions.columns names {name!r}, which is not needed", hint)
    given = {name for name in optional if name in section.columns or name in present}
    if any(name.startswith(BASELINE_PREFIX) for name in given):
        needed |= dict.fromkeys(_prefixed(BASELINE_PREFIX, own))
    columns = {name: section.columns.get(name, name) for name in needed | dict.fromkeys(sorted(given))}
    for name, column in columns.items():
        if column not in present:
            raise DataError(f"{file} has no column {column!r}", _remedy(name, column, present))
    dimensions = tuple(_dimension(one, schema) for one in slices)
    return FinishedTable(source, schema, measured, columns, weight, dimensions, slice_columns)


def _prefixed(prefix: str, names: Sequence[str]) -> list[str]:
    return [prefix + name for name in names]


def _remedy(name: str, column: str, present: Sequence[str]) -> str:
    close = nearest(column, present)
    return f"{close} If so, {REMEDY}" if name == column and close.endswith("?") else REMEDY


def _check_slices(
    slices: Sequence[SliceConfig] | None, schema: Schema, columns: dict[str, str], present: Sequence[str]
) -> list[SliceConfig]:
    """The slices of a configuration; where it says nothing the day, if the table has the time."""
    time = schema.keys.time
    if slices is None:
        return [SliceConfig(column=DAY)] if time and columns.get(time, time) in present else []
    for one in slices:
        if one.column in (NEW_USER, NEW_ITEM):
            raise ConfigError(
                f"evaluate.slices names {one.column!r}, and what the table's model has learnt is not known",
                "remove it, or name a column of the table",
            )
        if one.column == DAY and not time:
            raise ConfigError(
                f"evaluate.slices names {DAY!r}, and the schema has no key `time`",
                "name the column with the rows' time as schema.keys.time",
            )
    return list(slices)


def _dimension(one: SliceConfig, schema: Schema) -> Dimension:
    if one.column == DAY:
        return Dimension(DAY, partial(read_days, str(schema.keys.time)), top_of(one))
    is_numeric = any(f.name == one.column and isinstance(f, NumericFeature) for f in schema.features)
    if one.buckets or (is_numeric and not one.top):
        return Dimension(one.column, partial(read_raw_numbers, one.column), buckets=one.buckets or DEFAULT_BUCKETS)
    return Dimension(one.column, partial(read_texts, one.column), top_of(one))
