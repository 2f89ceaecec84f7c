"""The rules on drift: how far the data may be from those of the earlier dataset."""

import math
from collections.abc import Sequence

from pipeline.gate.config import DriftRules
from pipeline.gate.form import Rule, RuleName
from pipeline.preprocess.checks.drift import PSI, Finding

# What each comparison of preprocessing is held against; one that is not here, such as a feature that is gone, passes
# no rule.
THRESHOLDS: dict[str, RuleName] = {
    PSI: "drift.max_psi",
    "increase of the unseen rate": "drift.max_unseen_rate_increase",
    "increase of the null rate": "drift.max_null_rate_increase",
    "change of the mean label": "drift.max_label_rate_change",
}


def drift_rules(findings: Sequence[Finding] | None, rules: DriftRules) -> tuple[list[Rule], list[str]]:
    """A rule for each comparison, and in words those that could not be made and are not missed.

    The index of a feature without counts that can be compared, a hashed one or one with few values, is not missed, nor
    that of one of `any_psi`: its nulls and its unseen values are compared. Labels are.
    """
    if not findings:
        reason = "the data were not compared with an earlier dataset, which preprocess.contract.drift.previous names"
        return [Rule(rule="drift", passed=False, reason=reason)], []
    missed = [one for one in findings if not _is_not_missed(one, rules)]
    return [_rule(one, rules) for one in missed], [str(one) for one in findings if _is_not_missed(one, rules)]


def _is_not_missed(finding: Finding, rules: DriftRules) -> bool:
    is_index = finding.of == "feature" and finding.measure == PSI
    return is_index and (finding.name in rules.any_psi or (finding.value is None and finding.reason is not None))


def _rule(finding: Finding, rules: DriftRules) -> Rule:
    name = THRESHOLDS.get(finding.measure, "drift")
    bound = None if name == "drift" else getattr(rules, name.removeprefix("drift."))
    value = finding.value if finding.value is not None and math.isfinite(finding.value) else None
    passed = value is not None and bound is not None and value <= bound
    start = f"{finding.of} {finding.name!r}: {finding.measure}"
    if value is None or bound is None:
        reason = f"{start}: {finding.reason or 'it is no number'}"
    else:
        sides = f", from {finding.before:.4g} to {finding.now:.4g}" if None not in (finding.before, finding.now) else ""
        reason = f"{start} is {value:.4g}{sides}, {'at most' if passed else 'above'} {bound:g}"
    owner = {finding.of: finding.name}
    return Rule(
        rule=name,
        task=owner.get("task"),
        feature=owner.get("feature"),
        value=value,
        bound=bound,
        passed=passed,
        reason=reason,
    )
