"""The window: which rows of the log are read, which groups of rows cannot hold any, and what is left of a table."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.preprocess.columns.boundaries import comparable, parse_boundaries, show_boundary
from pipeline.preprocess.columns.text import is_text
from pipeline.preprocess.config import WindowConfig
from pipeline.preprocess.raw_files.sources import ROW_COLUMN

SECTION = "preprocess.window"


@dataclass(frozen=True)
class Window:
    """Rows from `first` on and before `end`: microseconds since 1970 (int), numbers (float) or texts."""

    column: str
    first: Any
    end: Any

    @classmethod
    def of(cls, config: WindowConfig) -> "Window":
        """Raises a ConfigError when the boundaries are of different kinds or in the wrong order."""
        return cls(config.column, *parse_boundaries(("from", config.from_), ("to", config.to), SECTION))

    def __str__(self) -> str:
        return f"{show_boundary(self.first)} to {show_boundary(self.end)}"

    def excludes(self, ends: pa.Array | None) -> bool:
        """Whether rows whose lowest and highest values are `ends` are all outside; not where that is not known."""
        if ends is None or ends.null_count or (is_text(ends.type) and not isinstance(self.first, str)):
            return False  # the order of texts is not that of the times in them
        low, high = comparable(pa.chunked_array([ends]), self.first, self.column, SECTION).to_pylist()
        return bool(high < self.first or low >= self.end)

    def cut(self, rows: pa.Table) -> tuple[pa.Table, int]:
        """The rows inside, and those whose value is null, for others to judge; and how many are outside.

        If there are any, `ROW_COLUMN` says which of the rows each of those left was.
        """
        values = comparable(rows.column(self.column), self.first, self.column, SECTION)
        is_inside = pc.and_(pc.greater_equal(values, self.first), pc.less(values, self.end))
        is_kept = np.asarray(pc.fill_null(is_inside, True)) | np.asarray(pc.is_null(values, nan_is_null=True))
        num_outside = int(np.count_nonzero(~is_kept))
        if num_outside:
            kept = np.flatnonzero(is_kept)
            rows = rows.take(pa.array(kept)).append_column(ROW_COLUMN, pa.array(kept))
        return rows, num_outside
