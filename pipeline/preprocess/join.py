"""Left joins of user and item tables to the log: each table is loaded once, and rows keep the order of the log."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ConfigError, DataError
from pipeline.preprocess.config import TableConfig
from pipeline.preprocess.formats import check_columns, read_column_names
from pipeline.preprocess.sources import JOINED_FROM, list_files, read_table
from pipeline.preprocess.text import as_codes


@dataclass(frozen=True)
class ColumnPlan:
    """Which columns are read from the log, and which from each table besides its key."""

    log: tuple[str, ...]
    tables: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class JoinTable:
    """A table in memory: its distinct key values, int64 or text, and its other columns row by row."""

    path: str
    log_key: str
    keys: pa.Array
    columns: pa.Table


def plan_columns(
    log_columns: Sequence[str], log_file: str, tables: Sequence[TableConfig], needed: Sequence[str]
) -> ColumnPlan:
    """Decides where each needed column comes from.

    `log_columns` are the columns that the log, or a candidate table, has; `needed` are those that a stage reads.

    Raises:
        ConfigError: a needed column is in two places and no table's `columns` chooses one.
        DataError: a needed column, or one that `columns` lists, is nowhere.
    """
    offered = [_offered(table) for table in tables]
    needed = list(dict.fromkeys([*needed, *(table.left_key for table in tables)]))
    taken: dict[int | None, list[str]] = {place: [] for place in (None, *range(len(tables)))}
    for column in needed:
        offering = [i for i in range(len(tables)) if column in offered[i]]
        listing: list[int | None] = [i for i in offering if tables[i].columns is not None]
        places = listing or [*([None] if column in log_columns else []), *offering]
        if len(places) > 1:
            names = " and in ".join(log_file if place is None else tables[place].path for place in places)
            raise ConfigError(
                f"column {column!r} is in {names}",
                "list under `columns` of each table in preprocess.tables the columns to take from it, each once",
            )
        taken[places[0] if places else None].append(column)
    everything = {*log_columns, *(name for names in offered for name in names)}
    where = log_file
    if tables:
        where += ", nor among the columns taken from " + ", ".join(table.path for table in tables)
    for column in taken[None]:
        if column not in log_columns:
            check_columns([column], sorted(everything), where)
    return ColumnPlan(tuple(taken[None]), tuple(tuple(taken[i]) for i in range(len(tables))))


def _offered(table: TableConfig) -> list[str]:
    """The columns that can be taken from a table: those it lists, else all but its key; never the log's join column."""
    file = list_files(table)[0]
    names = read_column_names(table, file)
    check_columns([table.key, *(table.columns or ())], names, file)
    chosen = table.columns if table.columns is not None else [name for name in names if name != table.key]
    return [name for name in chosen if name != table.left_key]


def load_tables(tables: Sequence[TableConfig], plan: ColumnPlan) -> list[JoinTable]:
    """Reads the planned columns of every table.

    Raises:
        DataError: a key value stands in two rows of one table.
    """
    return [_load(table, columns) for table, columns in zip(tables, plan.tables, strict=True)]


def _load(table: TableConfig, columns: tuple[str, ...]) -> JoinTable:
    rows = read_table(table, list(dict.fromkeys([table.key, *columns]))).combine_chunks()
    keys = _comparable(rows.column(table.key), f"key column {table.key!r} of {table.path}")
    present = pc.is_valid(keys)
    keys, rows = keys.filter(present), rows.filter(present)
    counts = pc.value_counts(keys)
    most = pc.max(counts.field("counts")).as_py() or 0
    if most > 1:
        key = counts.field("values")[pc.index(counts.field("counts"), most).as_py()]
        raise DataError(
            f"key {table.key} = {key} stands in {most} rows of {table.path}", "keep one row per key in that table"
        )
    fields = [rows.schema.field(column).with_metadata({JOINED_FROM: table.path}) for column in columns]
    values = pa.Table.from_arrays([rows.column(column) for column in columns], schema=pa.schema(fields))
    return JoinTable(table.path, table.left_key, keys, values)


def join_tables(log: pa.Table, tables: Sequence[JoinTable], source: str) -> tuple[pa.Table, list[np.ndarray]]:
    """The log with the columns of every table, and per table which rows (bool) found no match.

    A row without a match, or with a null key, has nulls; `source` names the log's file in messages.
    """
    missing = []
    for table in tables:
        if table.log_key not in log.column_names:
            raise ConfigError(
                f"table {table.path} joins on {table.log_key!r}, which a table listed after it brings in",
                "list in preprocess.tables that other table first",
            )
        keys = _comparable(log.column(table.log_key), f"join column {table.log_key!r} of {source}")
        if keys.type != table.keys.type:
            places = pc.index_in(keys.cast(pa.string()), table.keys.cast(pa.string()))
        else:
            places = pc.index_in(keys, table.keys)
        joined = table.columns.take(places)
        for field in joined.schema:
            log = log.append_column(field, joined.column(field.name))
        missing.append(np.asarray(pc.is_null(places)))
    return log, missing


def _comparable(keys: pa.ChunkedArray, what: str) -> pa.Array:
    """Keys as int64, or as text when they are anything but integers."""
    if pa.types.is_integer(keys.type) and not pa.types.is_uint64(keys.type):
        return pa.concat_arrays(keys.cast(pa.int64()).chunks) if keys.num_chunks else pa.array([], pa.int64())
    codes, texts = as_codes(keys, what)
    return texts.take(pa.array(codes, mask=codes < 0))
