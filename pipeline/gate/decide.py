"""The gate: whether a challenger becomes the champion, from the report that compares both on the same fresh rows."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipeline.evaluate.prediction_table import Measured, measured_things
from pipeline.evaluate.report.form import Report
from pipeline.files import write_json
from pipeline.gate.comparisons import slice_rule, task_rules
from pipeline.gate.config import GateConfig
from pipeline.gate.drift import drift_rules
from pipeline.gate.evidence import Expected
from pipeline.gate.form import DECISION_VERSION, Decision, Rule, RuleName, decision_schema
from pipeline.gate.page import render_decision
from pipeline.preprocess.checks.drift import Finding

DECISION_JSON = "decision.json"
DECISION_SCHEMA_JSON = "decision.schema.json"
DECISION_HTML = "decision.html"
# The spread of so few replicates has few degrees of freedom: by Student's t, a p-value below 0.05 comes in 5.3% of
# equal pairs with 100 of them, and in 8.2% with 10.
MIN_REPLICATES = 100


def decide(report: Report, expected: Expected, policy: GateConfig, findings: Sequence[Finding] | None) -> Decision:
    """Holds every rule of a policy against a report; the challenger is promoted if all pass.

    With a champion the report is that of `gatehouse evaluate` with the champion as the baseline. Without one nothing is
    compared: bounds and the rules on the report decide. `findings` are those of the dataset's statistics.json, None
    where it was not compared with an earlier one. An undefined value, None, NaN or infinite, passes no rule. Equal
    arguments give equal decisions.
    """
    rules = list(_report_rules(report, expected, policy))
    not_compared: list[str] = []
    is_compared = expected.champion is not None
    tasks = {task.name: task for task in report.tasks}
    things = measured_things(expected.schema.tasks)
    for thing in things:
        rules.append(_task_rule(report, thing))
        if rules[-1].passed:
            rules += task_rules(tasks[thing.name], thing, policy, is_compared=is_compared)
    for name in sorted(policy.tasks.keys() - {thing.name for thing in things}):
        reason = f"the policy has rules for task {name!r}, which the schema does not have"
        rules.append(Rule(rule="task", task=name, passed=False, reason=reason))
    if is_compared:
        rules += _slice_rules(report, things, policy, not_compared)
    if policy.drift and (is_compared or findings is not None):
        own, missing = drift_rules(findings, policy.drift)
        rules += own
        not_compared += missing
    return Decision(
        decision_version=DECISION_VERSION,
        title=report.title,
        promoted=all(one.passed for one in rules),
        challenger=report.model,
        champion=report.baseline,
        split=report.split,
        rows=report.rows,
        schema_fingerprint=report.schema_fingerprint,
        policy=policy,
        rules=rules,
        not_compared=not_compared,
    )


def write_decision(decision: Decision, folder: Path) -> None:
    """Writes decision.html, decision.schema.json and, last, decision.json."""
    render_decision(decision, folder / DECISION_HTML)
    write_json(folder / DECISION_SCHEMA_JSON, decision_schema())
    write_json(folder / DECISION_JSON, decision.model_dump(mode="json"))


def _report_rules(report: Report, expected: Expected, policy: GateConfig) -> Iterator[Rule]:
    """That it is a report of these models and these rows, and that the rows are enough."""
    baseline = report.baseline.path if report.baseline else None
    yield _same("challenger", "the model", report.model.path, expected.challenger)
    yield _same("champion", "the model to compare with", baseline, expected.champion)
    yield _same("split", "the split", report.split, expected.split)
    yield _same("schema", "the schema", report.schema_fingerprint, expected.schema.fingerprint())
    is_whole = report.rows == expected.rows
    reason = f"{report.rows:,} rows are measured, {'all' if is_whole else 'and not the'} {expected.rows:,} of the split"
    yield Rule(rule="rows", value=report.rows, bound=expected.rows, passed=is_whole, reason=reason)
    yield _enough("min_rows", "rows are measured", report.rows, policy.min_rows)
    yield _enough("num_replicates", "bootstrap replicates", report.num_replicates, MIN_REPLICATES)


def _same(rule: RuleName, about: str, given: str | None, expected: str | None) -> Rule:
    passed = given == expected
    reason = f"{about} is {given or 'none'}" + ("" if passed else f", and should be {expected or 'none'}")
    return Rule(rule=rule, passed=passed, reason=reason)


def _enough(rule: RuleName, about: str, value: int, bound: int) -> Rule:
    passed = value >= bound
    reason = f"{value:,} {about}, {'at least' if passed else 'fewer than'} {bound:,}"
    return Rule(rule=rule, value=value, bound=bound, passed=passed, reason=reason)


def _task_rule(report: Report, thing: Measured) -> Rule:
    found = [task for task in report.tasks if task.name == thing.name]
    passed, reason = False, f"task {thing.name!r} is missing in the report"
    if len(found) > 1:
        reason = f"task {thing.name!r} is {len(found)} times in the report"
    elif found:
        given, wanted = ((one.kind, one.space, one.scope) for one in (found[0], thing))
        passed, reason = given == wanted, f"task {thing.name!r} is measured on {found[0].rows:,} rows"
        if not passed:
            reason = (
                f"task {thing.name!r} is of kind, space and scope {_listed(given)}, and should be {_listed(wanted)}"
            )
    return Rule(rule="task", task=thing.name, passed=passed, reason=reason)


def _listed(words: Iterable[str | None]) -> str:
    return ", ".join(word or "none" for word in words)


def _slice_rules(
    report: Report, things: Sequence[Measured], policy: GateConfig, not_compared: list[str]
) -> Iterator[Rule]:
    present = list(dict.fromkeys(one.dimension for one in report.slices))
    wanted = present if policy.slices.dimensions is None else policy.slices.dimensions
    for dimension in wanted:
        if dimension not in present:
            reason = f"the report has no slices of {dimension}"
            yield Rule(rule="slices.dimensions", passed=False, reason=reason)
    for one in report.slices:
        for thing in things if one.dimension in wanted else ():
            rule = slice_rule(one, thing, policy)
            if rule is None:
                not_compared.append(f"{thing.name} in {one.dimension} {one.value}: too few rows or positives")
            else:
                yield rule
