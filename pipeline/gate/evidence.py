"""What the gate decides on: a report, what that must be a report of, and how far the data have drifted."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ArtifactError
from pipeline.evaluate.report.form import Report
from pipeline.forms import read_form
from pipeline.preprocess.checks.drift import Finding
from pipeline.schema import Schema


@dataclass(frozen=True)
class Expected:
    """What the report must be of, from other sources than the report: a stale or mistaken one is not decided on.

    `challenger` and `champion` are the checkpoints that the evaluation was given, `champion` None where there is none.
    `rows` are those of the split in the dataset's index.
    """

    challenger: str
    champion: str | None
    split: str
    rows: int
    schema: Schema


def read_report(path: Path) -> Report:
    """The report in a report.json.

    Raises:
        ArtifactError: it is missing, or not a report of this version.
    """
    return read_form(path, Report, "run `gatehouse evaluate` again")


def read_findings(statistics: Mapping[str, Any]) -> list[Finding] | None:
    """The comparisons in the content of a statistics.json; None where it was not compared with an earlier dataset."""
    if "drift" not in statistics:
        return None
    try:
        return [Finding(**one) for one in statistics["drift"]["findings"]]
    except (KeyError, TypeError) as error:
        raise ArtifactError(
            f"the drift in statistics.json cannot be read: {error}", "run `gatehouse preprocess` again"
        ) from error
