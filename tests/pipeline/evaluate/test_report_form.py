"""report.json has the form that its schema says, no field more and none less."""

import json

import jsonschema  # type: ignore[import-untyped]
import pytest
from fabricated_report import make_report
from pydantic import ValidationError

from pipeline.evaluate.report.form import Report, report_schema
from pipeline.evaluate.report.report import REPORT_VERSION


@pytest.mark.parametrize("has_baseline", [True, False])
def test_a_report_has_the_form_that_is_described(has_baseline: bool) -> None:
    report = json.loads(json.dumps(make_report(has_baseline=has_baseline)))
    assert Report.model_validate(report).model_dump() == report
    jsonschema.validate(report, report_schema())
    assert report["report_version"] == REPORT_VERSION


def test_a_field_that_is_not_described_is_refused() -> None:
    report = make_report()
    report["tasks"][0]["metrics"]["auc"]["median"] = 0.5
    with pytest.raises(ValidationError, match="median"):
        Report.model_validate(report)
    with pytest.raises(jsonschema.ValidationError, match="median"):
        jsonschema.validate(report, report_schema())
