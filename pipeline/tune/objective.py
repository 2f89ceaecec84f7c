"""What a trial is worth, and the order of trials: by gains over trial 0 and by constraints.

Trials are compared by the feasibility rules of Deb 2000, "An efficient constraint handling method for genetic
algorithms": a feasible one is before an infeasible one, two feasible ones compare by their objectives, and two
infeasible ones by the sum of their violations, which need no weights against the objective. One without a value comes
last.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

from pipeline.evaluate.metrics.catalogue import MAIN_METRIC, METRICS
from pipeline.evaluate.prediction_table import measured_things
from pipeline.evaluate.report.wording import format_difference, format_value, label_of
from pipeline.gate.config import Margin
from pipeline.schema import Schema
from pipeline.tune.config import ConstraintConfig
from pipeline.tune.form import HeldConstraint, MeasuredValue, Outcome, TaskGain, Trial, TunedTask

NOT_MEASURED = MeasuredValue(value=None, reason="it was not measured")


def tuned_tasks(schema: Schema, weights: Mapping[str, float] | None) -> dict[str, TunedTask]:
    """The tasks of a schema, each on its own space, and how much each counts."""
    return {
        thing.name: TunedTask(
            metric=MAIN_METRIC[thing.kind],
            better="lower" if METRICS[thing.kind][MAIN_METRIC[thing.kind]].better == "lower" else "higher",
            weight=1.0 if weights is None else weights.get(thing.name, 0.0),
        )
        for thing in measured_things(schema.tasks)
        if thing.scope == "own space"
    }


def judge(
    number: int,
    outcome: Outcome,
    base: Outcome,
    tasks: Mapping[str, TunedTask],
    constraints: Mapping[str, ConstraintConfig],
) -> Trial:
    """A trial beside trial 0. A value that is undefined, or no finite number, makes it infeasible if it counts."""
    gains: dict[str, TaskGain] = {}
    held: list[HeldConstraint] = []
    reasons: list[str] = [] if outcome.failed is None else [f"failed: {outcome.failed}"]
    for name, task in tasks.items() if outcome.failed is None else ():
        gains[name] = _gain(outcome, base, name, task)
        own = list(_hold(name, task, gains[name], constraints[name])) if name in constraints else []
        held += own
        reasons += [_describe(one, task) for one in own if one.violation]
        if (task.weight and gains[name].gain is None) or any(one.violation is None for one in own):
            reasons.append(f"{name}: {_why_undefined(gains[name], task, base)}")
    counted = {name: task.weight for name, task in tasks.items() if task.weight and name in gains}
    objective = None
    if counted and all(gains[name].gain is not None for name in counted):
        total = sum(weight * (gains[name].gain or 0.0) for name, weight in counted.items())
        objective = _finite(total / sum(counted.values()))
    violations = [one.violation for one in held]
    is_undefined = objective is None or None in violations
    return Trial(
        number=number,
        parameters=outcome.parameters,
        tasks=gains,
        constraints=held,
        objective=objective,
        feasible=not is_undefined and all(one.passed for one in held),
        violation=None if is_undefined else math.fsum(one or 0.0 for one in violations),
        reasons=reasons,
        step=outcome.step,
        seconds=outcome.seconds,
        failed=outcome.failed,
    )


def order(trial: Trial) -> tuple[int, float, int]:
    """What trials are sorted by, the best first; the earlier one of equals. No value that is not finite wins."""
    if trial.feasible and trial.objective is not None and math.isfinite(trial.objective):
        return 0, -trial.objective, trial.number
    if not trial.feasible and trial.violation is not None and math.isfinite(trial.violation):
        return 1, trial.violation, trial.number
    return 2, 0.0, trial.number


def binding(trials: Sequence[Trial], best: Trial) -> dict[tuple[str, str], list[Trial]]:
    """By task and rule, the trials with a higher objective than the best one that the constraint kept out."""
    kept_out: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        if trial.objective is not None and best.objective is not None and trial.objective > best.objective:
            for one in trial.constraints:
                if not one.passed:
                    kept_out.setdefault((one.task, one.rule), []).append(trial)
    return kept_out


def _gain(outcome: Outcome, base: Outcome, name: str, task: TunedTask) -> TaskGain:
    measured = outcome.metrics.get(name, NOT_MEASURED)
    value, of_base = _finite(measured.value), _finite(base.metrics.get(name, NOT_MEASURED).value)
    gain = None
    if value is not None and of_base:
        # Without the sign of a 0.
        gain = (value - of_base) / abs(of_base) * (-1 if task.better == "lower" else 1) + 0.0
    reason = measured.reason if measured.value is None else None if value is not None else "it is no finite number"
    return TaskGain(value=value, reason=reason, base=of_base, gain=_finite(gain))


def _hold(name: str, task: TunedTask, gain: TaskGain, rules: ConstraintConfig) -> Iterator[HeldConstraint]:
    """Each rule of a task's constraint against its value."""
    value = gain.value
    if rules.min is not None:
        excess = None if value is None else rules.min - value
        yield _held(name, "min", value, rules.min, excess, abs(rules.min))
    if rules.max is not None:
        excess = None if value is None else value - rules.max
        yield _held(name, "max", value, rules.max, excess, abs(rules.max))
    if rules.max_loss is not None:
        bound = loss = excess = None
        if gain.base is not None:
            bound = _in_units(rules.max_loss, gain.base)
            if value is not None:
                loss = value - gain.base if task.better == "lower" else gain.base - value
                excess = loss - bound
        yield _held(name, "max_loss", loss, bound, excess, abs(gain.base or 0.0))


def _held(
    name: str, rule: str, value: float | None, bound: float | None, excess: float | None, unit: float
) -> HeldConstraint:
    """`excess` is how far the value lies beyond the bound; shares of `unit` can be added up over tasks."""
    violation = None if excess is None else max(0.0, excess) / (unit or 1.0)
    passed = excess is not None and excess <= 0
    return HeldConstraint.model_validate(
        {"task": name, "rule": rule, "value": value, "bound": bound, "passed": passed, "violation": violation}
    )


def _in_units(margin: Margin, of_base: float) -> float:
    """A margin in the metric's unit."""
    return float(margin[:-1]) / 100 * abs(of_base) if isinstance(margin, str) else margin


def _describe(one: HeldConstraint, task: TunedTask) -> str:
    start = f"{one.task}: {label_of(task.metric)}"
    if one.rule == "max_loss":
        return f"{start} loses {format_difference(one.value)}, more than {format_difference(one.bound)}"
    side = "below" if one.rule == "min" else "above"
    return f"{start} is {format_value(one.value)}, {side} {format_value(one.bound)}"


def _why_undefined(gain: TaskGain, task: TunedTask, base: Outcome) -> str:
    label = label_of(task.metric)
    if gain.value is None:
        return f"{label} is undefined: {gain.reason}"
    if base.failed is not None:
        return "there is nothing to compare with, as trial 0 failed"
    return f"{label} of trial 0 is {'0' if gain.base == 0 else 'undefined'}, so that there is no gain over it"


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None
