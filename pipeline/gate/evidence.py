"""What the gate decides on: a report, what that must be a report of, and how far the data have drifted."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.errors import ArtifactError
from pipeline.evaluate.report.form import Report
from pipeline.files import retry
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
    try:
        return Report.model_validate(json.loads(retry(path.read_bytes, path)))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        reason = f"{'.'.join(map(str, problem['loc']))}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error) or type(error).__name__
    raise ArtifactError(f"the report {path} cannot be read: {reason}", "run `gatehouse evaluate` again")


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
