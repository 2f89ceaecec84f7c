"""Left joins of user and item tables to the log, whose rows keep their order: what comes from where, and the join."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.preprocess.checks.contract import Rule
from pipeline.preprocess.columns.text import as_codes
from pipeline.preprocess.columns.times import parse_times
from pipeline.preprocess.config import TableConfig
from pipeline.preprocess.joins import rows as join_rows
from pipeline.preprocess.joins.rows import RangePlan, merge_range, read_sorted
from pipeline.preprocess.joins.staging import StagedRanges
from pipeline.preprocess.joins.table import JoinTable, Ranges
from pipeline.preprocess.raw_files.formats import check_columns, read_column_names
from pipeline.preprocess.raw_files.sources import list_files, plan_partitions

# A table whose files have more bytes is staged; another one is sent to every process.
BROADCAST_BYTES = 64 << 20


@dataclass(frozen=True)
class ColumnPlan:
    """Which columns are read from the log, and which from each table besides its key."""

    log: tuple[str, ...]
    tables: tuple[tuple[str, ...], ...]


class Joined(NamedTuple):
    """A log with the columns of its tables, and the rows without a usable time for one of them.

    `counts` says per table which rows (bool) are counted, by what is counted.
    """

    rows: pa.Table
    counts: list[dict[str, np.ndarray]]
    rules: list[Rule]


def plan_columns(
    log_columns: Sequence[str],
    log_file: str,
    tables: Sequence[TableConfig],
    needed: Sequence[str],
    time_column: str | None = None,
) -> ColumnPlan:
    """Decides where each needed column comes from.

    `log_columns` are the columns that the log, or a candidate table, has; `needed` are those that a stage reads.
    `time_column` has the time of the log's rows, which tables with `valid_from` need.

    Raises:
        ConfigError: a needed column is in two places and no table's `columns` chooses one.
        DataError: a needed column, or one that `columns` lists, is nowhere.
    """
    of_log = [[table.left_key, *([time_column] if table.valid_from and time_column else [])] for table in tables]
    offered = [_offered(table, names) for table, names in zip(tables, of_log, strict=True)]
    needed = list(dict.fromkeys([*needed, *(name for names in of_log for name in names)]))
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


def _offered(table: TableConfig, of_log: Sequence[str]) -> list[str]:
    """The columns that can be taken from a table: those it lists, else all but its key; never those it is joined on."""
    file = list_files(table)[0]
    names = read_column_names(table, file)
    check_columns([table.key, *([table.valid_from] if table.valid_from else []), *(table.columns or ())], names, file)
    chosen = table.columns if table.columns is not None else [name for name in names if name != table.key]
    return [name for name in chosen if name not in of_log]


def open_tables(
    tables: Sequence[TableConfig], plan: ColumnPlan, time_column: str | None, staging: Path | None = None
) -> list[JoinTable]:
    """Loads every table, but those that are large if there is a folder to stage them in: see `stage_table`.

    Raises:
        DataError: a table cannot be read, or a key stands in two rows that are no two versions of it.
    """
    opened = []
    for number, (table, columns) in enumerate(zip(tables, plan.tables, strict=True)):
        ranges: Ranges
        if staging is not None and _is_large(table):
            ranges = StagedRanges(staging / f"table-{number:03d}")
        else:
            ranges = _load(table, columns)
        opened.append(JoinTable(table, columns, time_column if table.valid_from else None, ranges))
    return opened


def _is_large(table: TableConfig) -> bool:
    return sum(storage.describe(file).num_bytes for file in list_files(table)) > BROADCAST_BYTES


def _load(table: TableConfig, columns: Sequence[str]) -> tuple[pa.RecordBatch, ...]:
    partitions = plan_partitions(table, join_rows.PARTITION_ROWS)
    parts = [read_sorted(table, columns, *numbered) for numbered in enumerate(partitions)]
    plan = RangePlan.of(table, partitions, parts)
    return tuple(merge_range(plan, parts, number) for number in range(plan.num_ranges))


def join_tables(log: pa.Table, tables: Sequence[JoinTable], source: str) -> Joined:
    """The log with the columns of every table; `source` names its file in messages.

    A row that finds nothing has nulls: its key is null or not in the table, or all versions of the key are later.
    """
    counts, rules = [], []
    for table in tables:
        for column in (table.config.left_key, table.time_column):
            if column is not None and column not in log.column_names:
                raise ConfigError(
                    f"table {table.path} joins on {column!r}, which a table listed after it brings in",
                    "list in preprocess.tables that other table first",
                )
        keys = as_codes(log.column(table.config.left_key), f"join column {table.config.left_key!r} of {source}")
        times = None
        if table.time_column is not None:
            what = f"the time at which {table.path} is joined, column {table.time_column!r},"
            times = parse_times(log.column(table.time_column), table.config.time_unit, f"{source}: {what}")
            fix = "correct the rows, give the unit of numbers as time_unit of the table"
            rules.append(Rule(times.is_wrong, f"{what} is no time of the years 1 to 9999", table.time_column, fix))
        found = table.look_up(keys, times)
        for field in found.columns.schema:
            log = log.append_column(field, found.columns.column(field.name))
        counts.append({"missing_keys": found.is_missing})
        if times is not None:
            counts[-1]["before_first_version"] = found.is_early
    return Joined(log, counts, rules)
