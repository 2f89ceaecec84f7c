"""The raw log as both passes over it see it: numbered parts, each read, joined with the tables and split."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.errors import DataError
from pipeline.executor import Executor
from pipeline.preprocess.config import OrderSplit, SplitConfig
from pipeline.preprocess.formats import read_column_names
from pipeline.preprocess.join import JoinTable, join_tables, load_tables, plan_columns
from pipeline.preprocess.labels import check_classes
from pipeline.preprocess.sources import Partition, count_rows, plan_partitions, read_partition
from pipeline.preprocess.split import assign_splits, check_split
from pipeline.run_config import RunConfig
from pipeline.schema import Schema


class Part(NamedTuple):
    """One partition of the log, its number, and the place of its first row among all rows (order split only)."""

    number: int
    partition: Partition
    first_row: int


class RawRows(NamedTuple):
    """The joined rows of a part, the split of each (int8), and per table which found no match (bool)."""

    table: pa.Table
    splits: np.ndarray
    missing: list[np.ndarray]
    source: str
    first_row: int


@dataclass(frozen=True)
class RawLog:
    schema: Schema
    split: SplitConfig
    columns: tuple[str, ...]
    tables: tuple[JoinTable, ...]
    total_rows: int

    def read(self, part: Part) -> RawRows:
        partition = part.partition
        source = str(partition.path)
        rows = read_partition(partition, self.columns, keep_dictionaries=True)
        table, missing = join_tables(rows, self.tables, source)
        splits = assign_splits(table, self.split, part.first_row, self.total_rows, source, partition.first_row)
        return RawRows(table, splits, missing, source, partition.first_row)


def open_log(config: RunConfig, executor: Executor) -> tuple[RawLog, list[Part]]:
    """Finds the files, decides where each column comes from, and loads the tables.

    Raises:
        ConfigError: the split's boundaries are in the wrong order, two classes have one label value, or a column is
            in two places.
        DataError: a file, a column or every row is missing, or a table has a key twice.
    """
    config.check_inputs()
    schema, section = config.data_schema, config.preprocess
    check_split(section.split)
    check_classes(schema)
    source = config.source(section.log)
    partitions = plan_partitions(source, section.rows_per_partition)
    if not partitions:
        raise DataError(f"{source.path} holds no row", "give a log with rows")
    tables = [table.model_copy(update={"path": config.input_path(table.path)}) for table in section.tables]
    needed = [*schema.input_columns(), *schema.label_columns(), *([schema.weight] if schema.weight else [])]
    if not isinstance(section.split, OrderSplit):
        needed.append(section.split.column)
    first_file = partitions[0].path
    plan = plan_columns(read_column_names(source, first_file), str(first_file), tables, needed)
    first_rows = [0] * (len(partitions) + 1)
    if isinstance(section.split, OrderSplit):
        first_rows = np.cumsum([0, *executor.map(count_rows, partitions)]).tolist()
    parts = [Part(number, *pair) for number, pair in enumerate(zip(partitions, first_rows, strict=False))]
    log = RawLog(schema, section.split, plan.log, tuple(load_tables(tables, plan)), first_rows[-1])
    return log, parts
