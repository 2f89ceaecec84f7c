"""The raw log as both passes over it see it: numbered parts, each read, joined with the tables and split."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ConfigError, DataError
from pipeline.executor import Executor
from pipeline.preprocess.checks.contract import Rule, check_rows, check_types
from pipeline.preprocess.checks.quarantine import Quarantine, quarantine_table
from pipeline.preprocess.columns.labels import check_classes
from pipeline.preprocess.config import ContractConfig, OrderSplit, SourceConfig, SplitConfig
from pipeline.preprocess.joins.join import join_tables, open_tables, plan_columns
from pipeline.preprocess.joins.table import JoinTable
from pipeline.preprocess.raw_files.formats import format_of, read_column_names
from pipeline.preprocess.raw_files.sources import Partition, count_rows, list_files, plan_partitions, read_partition
from pipeline.preprocess.raw_files.unzip import UNZIPPED_FOLDER
from pipeline.preprocess.raw_files.window import Window
from pipeline.preprocess.split import assign_splits, check_split, deciding_columns
from pipeline.run_config import RunConfig
from pipeline.schema import Schema


class Part(NamedTuple):
    """One partition of the log, its number, and the place of its first row among all rows (order split only)."""

    number: int
    partition: Partition
    first_row: int


class RawRows(NamedTuple):
    """The joined rows of a part that keep the contract, the split (int8) and labels of each, and what became of others.

    `joins` says per table which rows (bool) are counted, by what; `bad` are the rows that are not kept, with reasons;
    `num_outside` more were outside the window.
    """

    table: pa.Table
    splits: np.ndarray
    labels: dict[str, np.ndarray]
    joins: list[dict[str, np.ndarray]]
    source: str
    first_row: int
    quarantine: Quarantine
    bad: pa.Table
    num_outside: int


@dataclass(frozen=True)
class RawLog:
    schema: Schema
    window: Window | None
    split: SplitConfig
    columns: tuple[str, ...]
    tables: tuple[JoinTable, ...]
    total_rows: int
    contract: ContractConfig
    text_files: frozenset[str]

    def read(self, part: Part) -> RawRows:
        """Reads, joins, checks and splits a part.

        Raises:
            DataError: a column or a row breaks the contract and is not quarantined, or the split is null in a row.
        """
        partition = part.partition
        source = str(partition.path)
        rows, num_outside = read_partition(partition, self.columns, keep_dictionaries=True), 0
        if self.window:
            rows, num_outside = self.window.cut(rows)
        table, joins, rules = join_tables(rows, self.tables, source)
        rules += [_no_place(self.window, table)] if self.window else []
        check_types(self.contract.columns, table, source, self.text_files)
        checked = check_rows(self.contract, self.schema, self.split, table, source, partition.first_row, rules)
        quarantine = Quarantine.of(checked, table, source, partition.first_row)
        bad = quarantine_table(checked, table, source, partition.first_row)
        # In an order split a row has its place among all rows, the bad ones included.
        is_by_order = isinstance(self.split, OrderSplit)
        splits = self._split(table, part) if is_by_order else None
        labels = checked.labels
        if len(bad):
            is_good = ~checked.is_bad
            table = table.filter(pa.array(is_good))
            labels = {task: own[is_good] for task, own in labels.items()}
            joins = [{name: own[is_good] for name, own in counts.items()} for counts in joins]
            splits = None if splits is None else splits[is_good]
        splits = self._split(table, part) if splits is None else splits
        return RawRows(table, splits, labels, joins, source, partition.first_row, quarantine, bad, num_outside)

    def _split(self, table: pa.Table, part: Part) -> np.ndarray:
        source, first_row = str(part.partition.path), part.partition.first_row
        return assign_splits(table, self.split, part.first_row, self.total_rows, source, first_row)


def open_log(config: RunConfig, staging: Path, executor: Executor) -> tuple[RawLog, list[Part]]:
    """Finds the files, decides where each column comes from, and loads the tables that are not large.

    The log can be read when `stage_table` has put the large ones into the folder `staging`.

    Raises:
        ConfigError: the split's boundaries are in the wrong order, two classes have one label value, a column is in
            two places, or versions of a table are to be chosen and the log has no time.
        DataError: a file, a column or every row is missing, or a table has a key twice.
    """
    config.check_inputs()
    schema, section = config.data_schema, config.preprocess
    check_split(section.split)
    check_classes(schema)
    source = config.source(section.log)
    unzip_folder = config.dataset_dir / UNZIPPED_FOLDER
    window = Window.of(section.window) if section.window else None
    partitions = plan_partitions(source, section.rows_per_partition, executor, unzip_folder, window)
    if not partitions:
        raise no_rows(source.path, window)
    tables = [table.model_copy(update={"path": config.input_path(table.path)}) for table in section.tables]
    versioned = next((table for table in tables if table.valid_from), None)
    if versioned and schema.keys.time is None:
        raise ConfigError(
            f"table {versioned.path} has valid_from, and schema.keys.time is not set",
            "name the column with the time of the log's rows as schema.keys.time",
        )
    needed = [*schema.input_columns(), *schema.label_columns(), *([schema.weight] if schema.weight else [])]
    needed += section.contract.columns
    needed += [*section.split.disjoint, *deciding_columns(section.split), *([window.column] if window else [])]
    first_file = partitions[0].path
    plan = plan_columns(read_column_names(source, first_file), str(first_file), tables, needed, schema.keys.time)
    if window and window.column not in plan.log:
        raise ConfigError(
            f"preprocess.window.column {window.column!r} is not a column of {first_file}", "name a column of the log"
        )
    first_rows = [0] * (len(partitions) + 1)
    if isinstance(section.split, OrderSplit):
        first_rows = np.cumsum([0, *executor.map(partial(_count_inside, window), partitions)]).tolist()
    parts = [Part(number, *pair) for number, pair in enumerate(zip(partitions, first_rows, strict=False))]
    text_files = {str(part.partition.path) for part in parts if _is_text(part.partition.source, part.partition.path)}
    text_files |= {table.path for table in tables if _is_text(table, list_files(table)[0])}
    joined = tuple(open_tables(tables, plan, schema.keys.time, staging))
    log = RawLog(
        schema, window, section.split, plan.log, joined, first_rows[-1], section.contract, frozenset(text_files)
    )
    return log, parts


def no_rows(path: str, window: Window | None) -> DataError:
    if window is None:
        return DataError(f"{path} holds no row", "give a log with rows")
    return DataError(
        f"{path} holds no row whose {window.column!r} is in {window}", f"{await_rows(window)}move preprocess.window"
    )


def await_rows(window: Window | None) -> str:
    """What to do first where a window of the log lacks rows: retraining asks for rows that may be late."""
    return f"see whether the log has all rows of {window}, and begin again when it has; or " if window else ""


def _no_place(window: Window, table: pa.Table) -> Rule:
    is_null = np.asarray(pc.is_null(table.column(window.column), nan_is_null=True))
    return Rule(is_null, f"the window column {window.column!r} is null", window.column, "correct the rows")


def _count_inside(window: Window | None, partition: Partition) -> int:
    if window is None:
        return count_rows(partition)
    rows = read_partition(partition, [window.column])
    return int(window.cut(rows)[0].num_rows)


def _is_text(source: SourceConfig, file: str) -> bool:
    return format_of(source, file) in ("csv", "jsonl")
