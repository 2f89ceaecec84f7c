"""The rules on drift: each comparison of preprocessing has its bound, and what is unknown or undefined passes none."""

import math
from dataclasses import asdict

import pytest
from paired_reports import FINDINGS

from pipeline.errors import ArtifactError
from pipeline.gate.config import DriftRules
from pipeline.gate.drift import drift_rules
from pipeline.gate.evidence import read_findings
from pipeline.preprocess.checks.drift import PSI, Finding, describe_drift, find_drift
from pipeline.preprocess.config import DriftConfig

RULES = DriftRules()


def find(measure: str, value: float | None, of: str = "feature", reason: str | None = None) -> Finding:
    return Finding(of, "country", measure, None, None, value, 1.0, False, reason)


@pytest.mark.parametrize(
    ("finding", "rule"),
    [
        (find(PSI, 0.26), "drift.max_psi"),
        (find(PSI, 0.26, "task"), "drift.max_psi"),
        (find(PSI, None, "task", "too few values"), "drift.max_psi"),
        (find(PSI, None), "drift.max_psi"),
        (find(PSI, math.nan), "drift.max_psi"),
        (find(PSI, math.inf), "drift.max_psi"),
        (find(PSI, -math.inf), "drift.max_psi"),
        (find("increase of the unseen rate", 0.21), "drift.max_unseen_rate_increase"),
        (find("increase of the null rate", 0.21), "drift.max_null_rate_increase"),
        (find("increase of the null rate", None, reason="is not told"), "drift.max_null_rate_increase"),
        (find("change of the mean label", 0.31, "task"), "drift.max_label_rate_change"),
        (find("change of the mean label", None, "task", "no label"), "drift.max_label_rate_change"),
        (find("presence", None, reason="is gone"), "drift"),
        (find("a measure of a later version", 0.0), "drift"),
    ],
)
def test_a_finding_beyond_its_bound_or_without_a_number_is_refused(finding: Finding, rule: str) -> None:
    (refused,), missing = drift_rules([finding], RULES)
    assert (refused.rule, refused.passed, missing) == (rule, False, [])
    assert "country" in (refused.feature, refused.task)
    assert refused.value is None or math.isfinite(refused.value)
    assert refused.reason.startswith(f"{finding.of} 'country': {finding.measure}")


def test_findings_within_their_bounds_pass_and_a_feature_without_counts_is_told() -> None:
    rules, missing = drift_rules(FINDINGS, RULES)
    assert all(one.passed for one in rules)
    assert missing == ["feature 'user': population stability index: 963 values are too few, it needs 1,000"]


def test_a_feature_of_any_psi_is_told_and_held_to_the_other_bounds() -> None:
    findings = [find(PSI, 0.9), find("increase of the unseen rate", 0.9), find(PSI, 0.9, "task")]
    rules, told = drift_rules(findings, DriftRules(any_psi=("country",)))
    assert [(one.rule, one.task, one.passed) for one in rules] == [
        ("drift.max_unseen_rate_increase", None, False),
        ("drift.max_psi", "country", False),
    ]
    assert told == ["feature 'country': population stability index is 0.9"]


@pytest.mark.parametrize("findings", [None, []])
def test_data_that_were_not_compared_are_refused(findings: list[Finding] | None) -> None:
    (refused,), _ = drift_rules(findings, RULES)
    assert not refused.passed
    assert "preprocess.contract.drift.previous" in refused.reason


def test_every_comparison_that_preprocessing_makes_has_a_bound() -> None:
    counts = {"a": 800, "b": 700}
    feature = {"kind": "categorical", "table": "country", "nulls": {"train": 1}, "unseen_fraction": {"test": 0.1}}
    classes = {"kind": "multiclass", "classes": {name: {"train": count} for name, count in counts.items()}}
    content = {
        "rows": {"train": 1501},
        "features": {"country": feature},
        "tables": {"country": {"top_values": [*counts.items()], "num_values": 1500}},
        "tasks": {"click": {"kind": "binary", "mean": {"train": 0.3}}, "mood": classes},
    }
    findings = find_drift(content, content, {}, DriftConfig())
    rules, missing = drift_rules(findings, RULES)
    assert len(findings) == 5
    assert missing == []
    assert [one.reason for one in rules if not one.passed] == []


def test_findings_are_read_from_the_statistics() -> None:
    statistics = {"drift": describe_drift(FINDINGS, "runs/before/dataset")}
    assert read_findings(statistics) == FINDINGS
    assert read_findings({}) is None
    with pytest.raises(ArtifactError, match=r"drift in statistics.json cannot be read"):
        read_findings({"drift": {"findings": [asdict(FINDINGS[0]) | {"later": 1}]}})
