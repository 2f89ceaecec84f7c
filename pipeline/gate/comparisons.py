"""The rules on metrics: bounds of values, and differences of a challenger from the champion on the same rows.

A difference is judged by its two-sided interval at 1 - alpha, at 0.05 the one in the report. A loss of at most
`max_loss` is established where the whole interval lies above -max_loss: the test of non-inferiority at the one-sided
level alpha / 2 (ICH E9 1998, "Statistical principles for clinical trials", 3.3.2). A gain is established by a two-sided
p below alpha in favour of the challenger, and then its size must be at least `min_gain`: two equal models pass that in
alpha / 2 of all pairs. A margin that is a share is one of the champion's value as measured.

Every rule must pass, so several tasks need no correction: a challenger that truly breaks some rule is promoted with a
chance of at most alpha / 2 (the intersection-union test of Berger 1982, "Multiparameter hypothesis testing and
acceptance sampling"), and several required gains only lower it. What grows with the tasks is the chance that a good
challenger is refused. Slices are the other way round: there a loss must be established to refuse, with p-values
adjusted for the number of slices, or one bad draw among many would.
"""

import math
from collections.abc import Iterator, Mapping
from statistics import NormalDist
from typing import Any, NamedTuple

from pipeline.evaluate.metrics.catalogue import MAIN_METRIC, definition_of
from pipeline.evaluate.metrics.resample import Z_95
from pipeline.evaluate.prediction_table import Measured
from pipeline.evaluate.report.form import Compared, SliceMetric, SliceReport, TaskReport
from pipeline.evaluate.report.wording import format_difference, format_p_value, format_value, label_of
from pipeline.gate.config import GateConfig, Margin, MetricRules
from pipeline.gate.form import Rule, RuleName, Slice
from pipeline.gate.policy import rules_of


class Undefined(NamedTuple):
    """Why there is no difference that a rule can be held against."""

    reason: str


class Gain(NamedTuple):
    """How much better the challenger is, in the metric's unit, with its interval at 1 - alpha."""

    value: float
    low: float
    high: float
    p_value: float
    alpha: float
    of_challenger: float
    of_champion: float

    def __str__(self) -> str:
        """Such as: 0.7512, 0.0030 worse than the champion's 0.7542 (95% interval 0.0050 worse to 0.0010 worse)."""
        than = "the same as" if self.value == 0 else f"{_directed(self.value)} than"
        return (
            f"{format_value(self.of_challenger)}, {than} the champion's {format_value(self.of_champion)} "
            f"({100 * (1 - self.alpha):g}% interval {_directed(self.low)} to {_directed(self.high)})"
        )


def task_rules(task: TaskReport, thing: Measured, policy: GateConfig, *, is_compared: bool) -> Iterator[Rule]:
    """Those on the whole split; without a champion there is no comparison."""
    name = MAIN_METRIC[thing.kind]
    yield _main_metric(task, name, _cell(task.metrics, name))
    for name, rules in rules_of(policy, thing).items():
        cell = _cell(task.metrics, name)
        yield from _bounds(task.name, name, cell, rules)
        if is_compared:
            gain = _gain(cell, thing.kind, name, cell.p_value, policy.alpha)
            if rules.max_loss is not None:
                yield _difference("max_loss", task.name, name, gain, rules.max_loss)
            if rules.min_gain is not None:
                yield _difference("min_gain", task.name, name, gain, rules.min_gain)


def slice_rule(one: SliceReport, thing: Measured, policy: GateConfig) -> Rule | None:
    """That no loss beyond what is allowed is established in one slice; None where the slice is small for the task."""
    task = one.tasks.get(thing.name)
    if task is not None and task.small:
        return None
    name = MAIN_METRIC[thing.kind]
    cell = _cell(task.metrics if task else {}, name)
    gain = _gain(cell, thing.kind, name, cell.adjusted_p_value, policy.alpha)
    where = Slice(dimension=one.dimension, value=one.value)
    return _difference("slices.max_loss", thing.name, name, gain, policy.slices.max_loss, where)


def _cell(metrics: Mapping[str, Compared], name: str) -> SliceMetric:
    """The numbers of a metric; all of them None where the report does not have it."""
    found = metrics.get(name)
    fields: dict[str, Any] = dict.fromkeys(SliceMetric.model_fields)
    return SliceMetric.model_construct(**fields | (dict(found) if found else {"reason": "it is not in the report"}))


def _main_metric(task: TaskReport, name: str, cell: Compared) -> Rule:
    """It is defined and, where there is a value without any skill, better than that with 95% confidence."""
    metric = definition_of(task.kind, name)
    chance = metric.chance if metric else None
    value, low = _finite(cell.value), None if chance is None else _finite(cell.low)
    start = f"{task.name}: {label_of(name)}"
    if value is None:
        passed, reason = False, f"{start} is undefined: {_why(cell)}"
    elif chance is None:
        passed, reason = True, f"{start} is {format_value(value)}"
    else:
        passed = low is not None and low > chance
        spread = "no interval" if low is None else f"at least {format_value(low)} with 95% confidence"
        says = "above" if passed else "not surely above"
        reason = f"{start} is {format_value(value)}, {spread}: {says} the {chance:g} of chance"
    return Rule(
        rule="main_metric",
        task=task.name,
        metric=name,
        value=value,
        low=low,
        bound=chance,
        passed=passed,
        reason=reason,
    )


def _bounds(task: str, name: str, cell: Compared, rules: MetricRules) -> Iterator[Rule]:
    value = _finite(cell.value)
    if rules.min is not None:
        passed = value is not None and value >= rules.min
        yield _bound("min", task, name, cell, rules.min, passed, "at least" if passed else "below")
    if rules.max is not None:
        passed = value is not None and value <= rules.max
        yield _bound("max", task, name, cell, rules.max, passed, "at most" if passed else "above")


def _bound(rule: RuleName, task: str, name: str, cell: Compared, bound: float, passed: bool, says: str) -> Rule:
    value = _finite(cell.value)
    told = f"undefined: {_why(cell)}" if value is None else f"{format_value(value)}, {says} {bound:g}"
    reason = f"{task}: {label_of(name)} is {told}"
    return Rule(rule=rule, task=task, metric=name, value=value, bound=bound, passed=passed, reason=reason)


def _difference(
    rule: RuleName, task: str, name: str, gain: Gain | Undefined, margin: Margin, where: Slice | None = None
) -> Rule:
    start = f"{task} in {where.dimension} {where.value}" if where else task
    blank = Rule(rule=rule, task=task, metric=name, slice=where, passed=False, reason="")
    if isinstance(gain, Undefined):
        reason = f"{start}: {label_of(name)} cannot be compared: {gain.reason}"
        return blank.model_copy(update={"reason": reason})
    size = _in_units(margin, gain.of_champion)
    judge = {"max_loss": _judge_loss, "min_gain": _judge_gain, "slices.max_loss": _judge_slice}[rule]
    passed, says = judge(gain, size)
    numbers = {"value": gain.value, "low": gain.low, "high": gain.high, "p_value": gain.p_value}
    bound = size if rule == "min_gain" else -size
    p = f"{'adjusted ' if where else ''}{format_p_value(gain.p_value)}"
    reason = f"{start}: {label_of(name)} {gain}, {p}: {says}"
    return blank.model_copy(update={**numbers, "bound": bound, "passed": passed, "reason": reason})


def _judge_loss(gain: Gain, allowed: float) -> tuple[bool, str]:
    shown = format_value(allowed)
    if gain.low >= -allowed:
        return True, f"within the loss of {shown} that is allowed"
    if gain.value < -allowed:
        return False, f"beyond the loss of {shown} that is allowed"
    return False, f"a loss beyond the {shown} that is allowed cannot be excluded; more rows would tell"


def _judge_gain(gain: Gain, required: float) -> tuple[bool, str]:
    passed = gain.value >= required and gain.p_value < gain.alpha
    size = f" of at least {format_value(required)}" if required else ""
    return passed, f"{'has' if passed else 'lacks'} the significant gain{size} that is required"


def _judge_slice(gain: Gain, allowed: float) -> tuple[bool, str]:
    passed = gain.p_value >= gain.alpha or gain.value >= -allowed
    says = "no significant loss beyond" if passed else "significant, and beyond"
    return passed, f"{says} the {format_value(allowed)} that is allowed"


def _gain(cell: Compared, kind: str, name: str, p_value: float | None, alpha: float) -> Gain | Undefined:
    """Undefined unless every number of the comparison is there and finite, and the interval holds the difference."""
    metric = definition_of(kind, name)
    found = (cell.value, cell.baseline, cell.difference, cell.difference_low, cell.difference_high, p_value)
    numbers = [number for number in map(_finite, found) if number is not None]
    if metric is None or metric.better == "nearer 1" or len(numbers) < len(found):
        return Undefined(_why(cell))
    of_challenger, of_champion, difference, low, high, p = numbers
    if not low <= difference <= high:
        return Undefined("its interval does not hold the difference")
    # Intervals of the report are of 95%, by the normal distribution.
    half = (high - low) / (2 * Z_95) * NormalDist().inv_cdf(1 - alpha / 2)
    value = -difference if metric.better == "lower" else difference
    return Gain(value, value - half, value + half, p, alpha, of_challenger, of_champion)


def _why(cell: Compared) -> str:
    """Why a value, or the comparison of it, is undefined."""
    if cell.reason is not None:
        return cell.reason
    if cell.baseline_reason is not None:
        return f"the champion's is undefined, {cell.baseline_reason}"
    if _finite(cell.value) is None or _finite(cell.baseline) is None:
        return "the report holds no number"
    return "too few units for an interval"


def _in_units(margin: Margin, of_champion: float) -> float:
    """A margin in the metric's unit."""
    return float(margin[:-1]) / 100 * abs(of_champion) if isinstance(margin, str) else margin


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def _directed(gain: float) -> str:
    return f"{format_difference(abs(gain))} {'worse' if gain < 0 else 'better'}"
