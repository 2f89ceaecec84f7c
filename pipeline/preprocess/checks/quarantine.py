"""The quarantine: the bad rows of the log with the reason of each, their counts, and the limit on them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import DataError
from pipeline.preprocess.checks.contract import MAX_LISTED, CheckedRows
from pipeline.preprocess.columns.labels import show_value
from pipeline.preprocess.raw_files.sources import JOINED_FROM, ROW_COLUMN

ADDED_COLUMNS = ("quarantine_reason", "quarantine_file", "quarantine_row")


def quarantine_table(checked: CheckedRows, table: pa.Table, source: str, first_row: int = 0) -> pa.Table:
    """The bad rows with the log's own columns as they were read, after their reason, file and row (counted from 1)."""
    rows = np.flatnonzero(checked.is_bad)
    places = np.asarray(table.column(ROW_COLUMN))[rows] if ROW_COLUMN in table.column_names else rows
    own = [
        field.name for field in table.schema if JOINED_FROM not in (field.metadata or {}) and field.name != ROW_COLUMN
    ]
    reasons = pa.array([rule.reason for rule in checked.rules], pa.string()).take(pa.array(checked.codes[rows]))
    added = (reasons, pa.array([source] * len(rows), pa.string()), pa.array(first_row + places + 1, pa.int64()))
    kept = table.select(own).take(pa.array(rows))
    return pa.table([*added, *kept.columns], names=[*ADDED_COLUMNS, *own])


@dataclass
class Quarantine:
    """How many rows were checked, and how many were bad for which reason; merged in the order of the partitions."""

    num_rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    firsts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, checked: CheckedRows, table: pa.Table, source: str, first_row: int = 0) -> "Quarantine":
        """Of one table, with the first value for each reason and where it lies."""
        quarantine = cls(len(checked.codes))
        for place, rule in enumerate(checked.rules):
            rows = np.flatnonzero(checked.codes == place)
            if len(rows):
                quarantine.counts[rule.reason] = len(rows)
                quarantine.firsts[rule.reason] = show_value(table, rule.column, int(rows[0]), source, first_row)
        return quarantine

    def merge(self, other: "Quarantine") -> "Quarantine":
        """The sum; the first value for a reason is that of `self`."""
        counts = {
            reason: self.counts.get(reason, 0) + other.counts.get(reason, 0) for reason in self.counts | other.counts
        }
        return Quarantine(self.num_rows + other.num_rows, counts, other.firsts | self.firsts)

    @property
    def num_bad_rows(self) -> int:
        return sum(self.counts.values())

    def describe(self) -> dict[str, Any]:
        """For statistics.json: the reasons, the most frequent one first."""
        reasons = sorted(self.counts, key=lambda reason: (-self.counts[reason], reason))
        return {
            "rows": self.num_rows,
            "quarantined": self.num_bad_rows,
            "reasons": [{"reason": r, "rows": self.counts[r], "first": self.firsts[r]} for r in reasons],
        }

    def check(self, max_fraction: float) -> None:
        """Raises one DataError that lists the reasons with their counts, when more rows are bad than allowed."""
        if self.num_bad_rows <= max_fraction * self.num_rows:
            return
        entries = self.describe()["reasons"]
        listed = [f"{entry['reason']} ({entry['rows']:,} rows, the first {entry['first']})" for entry in entries]
        more = [f"{len(listed) - MAX_LISTED} more reasons"] if len(listed) > MAX_LISTED else []
        raise DataError(
            f"{self.num_bad_rows:,} of {self.num_rows:,} rows are bad ({self.num_bad_rows / self.num_rows:.2%}), and "
            f"preprocess.contract.max_quarantine_fraction is {max_fraction:g}: {'; '.join(listed[:MAX_LISTED] + more)}",
            "correct the log, or raise the fraction",
        )
