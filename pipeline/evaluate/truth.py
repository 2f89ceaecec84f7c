"""The true probability or expected value of every row, which the log of a simulation comes with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.errors import DataError
from pipeline.evaluate.prediction_table import FloatArray, Measured
from pipeline.executor import Executor, Progress
from pipeline.preprocess.columns.text import as_codes
from pipeline.preprocess.config import SourceConfig, TableConfig
from pipeline.preprocess.joins.join import ColumnPlan, open_tables
from pipeline.preprocess.joins.staging import stage_table
from pipeline.preprocess.joins.table import JoinTable
from pipeline.preprocess.raw_files.formats import read_column_names
from pipeline.preprocess.raw_files.sources import list_files
from pipeline.run_config import RunConfig


@dataclass(frozen=True)
class Truth:
    """A table with a column per output of each task on its own space, looked up by the rows' key."""

    table: JoinTable

    def look_up(self, keys: pa.ChunkedArray, source: str) -> dict[str, FloatArray]:
        """The true value of each row, [N], by output; `source` says in messages whose rows they are.

        Raises:
            DataError: the table has not all rows.
        """
        found = self.table.look_up(as_codes(keys, "the row key"), None)
        if found.is_missing.any():
            first = keys[int(np.argmax(found.is_missing))].as_py()
            raise DataError(
                f"{self.table.path} has no true value for {np.count_nonzero(found.is_missing):,} of {len(keys):,} rows "
                f"of {source}, first {self.table.config.key} = {first}",
                "give the truth that was written beside this log, or remove evaluate.truth",
            )
        return {name: np.asarray(found.columns[name], np.float64) for name in self.table.columns}


def open_truth(
    config: RunConfig, measured: Sequence[Measured], folder: Path, executor: Executor, progress: Progress | None
) -> Truth | None:
    """The truth that the configuration names, if it does; a large one is put in order in `folder`.

    Raises:
        DataError: the table cannot be read, has a row twice, or lacks the column of an output.
    """
    section = config.evaluate.truth
    if section is None:
        return None
    source = SourceConfig(path=config.input_path(section.path))
    file = list_files(source)[0]
    present = read_column_names(source, file)
    own = [one for one in measured if one.scope == "own space"]
    missing = [f"{name!r} (task {one.name!r})" for one in own for name in one.outputs if name not in present]
    if missing:
        raise DataError(
            f"{file} has no column {', '.join(missing)}",
            "add the true values of these tasks, or remove evaluate.truth",
        )
    outputs = tuple(name for one in own for name in one.outputs)
    table = TableConfig(path=source.path, key=section.key, columns=outputs)
    (opened,) = open_tables([table], ColumnPlan((), (outputs,)), None, folder)
    stage_table(opened, executor, progress)
    return Truth(opened)
