"""The policy against a schema: what each measured task must hold, and the names that the policy may use."""

from collections.abc import Iterable
from typing import Any

from pipeline.config import nearest, or_else
from pipeline.errors import ConfigError
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.dimensions import check_slices
from pipeline.evaluate.metrics.catalogue import MAIN_METRIC, METRICS, definition_of, name_in_report
from pipeline.evaluate.prediction_table import Measured, measured_things
from pipeline.gate.config import GateConfig, MetricRules
from pipeline.schema import Schema

SECTION = "retrain.gate"
CALIBRATION = "calibration"


def rules_of(policy: GateConfig, thing: Measured) -> dict[str, MetricRules]:
    """By metric, the rules of a measured task: its own and, where it does not say the same, those of `default`."""
    rules: dict[str, dict[str, Any]] = {MAIN_METRIC[thing.kind]: {"max_loss": policy.default.max_loss}}
    if CALIBRATION in METRICS[thing.kind]:
        rules[CALIBRATION] = policy.default.calibration.model_dump()
    for metric, own in policy.tasks.get(thing.name, {}).items():
        rules[metric] = rules.get(metric, {}) | own.model_dump(exclude_none=True)
    return {metric: MetricRules().model_copy(update=own) for metric, own in rules.items()}


def check_gate(policy: GateConfig, schema: Schema, evaluate: EvaluateConfig) -> None:
    """Checks the names in a policy before any work is done.

    Raises:
        ConfigError: a task, a metric, a dimension or a feature is none that the report will have, or a rule does not
            fit it.
    """
    things = {thing.name: thing for thing in measured_things(schema.tasks)}
    for task, metrics in policy.tasks.items():
        if task not in things:
            raise _unknown(f"{SECTION}.tasks names {task!r}, which is no task of the schema", task, things)
        for metric in metrics:
            _check_metric(things[task], metric, metrics[metric], schema, evaluate.k)
    for thing in things.values():
        for metric, rules in rules_of(policy, thing).items():
            if rules.min is not None and rules.max is not None and rules.min > rules.max:
                raise ConfigError(
                    f"{SECTION}.tasks.{thing.name}.{metric}: min {rules.min:g} is above max {rules.max:g}, one of "
                    "which is the default",
                    "give both",
                )
    dimensions = [one.column for one in check_slices(schema, evaluate.slices)]
    for dimension in policy.slices.dimensions or ():
        if dimension not in dimensions:
            what = f"{SECTION}.slices.dimensions names {dimension!r}, which is not in evaluate.slices"
            raise _unknown(what, dimension, dimensions)
    features = [one.name for one in schema.features]
    for feature in policy.drift.any_psi if policy.drift else ():
        if feature not in features:
            what = f"{SECTION}.drift.any_psi names {feature!r}, which is no feature of the schema"
            raise _unknown(what, feature, features)


def _check_metric(thing: Measured, name: str, rules: MetricRules, schema: Schema, k: int) -> None:
    path = f"{SECTION}.tasks.{thing.name}"
    choices = [name_in_report(one, k) for one in METRICS[thing.kind]]
    if name not in choices:
        raise _unknown(f"{path} names {name!r}, which is no metric of a {thing.kind} task", name, choices)
    metric = definition_of(thing.kind, name)
    assert metric is not None
    if metric.key and getattr(schema.keys, metric.key) is None:
        raise ConfigError(
            f"{path} names {name!r}, and the schema has no key `{metric.key}`",
            f"name its column as schema.keys.{metric.key}, or remove it",
        )
    if metric.better == "nearer 1" and (rules.max_loss is not None or rules.min_gain is not None):
        raise ConfigError(f"{path}.{name}: more is not better of a value that is best at 1", "give it min and max only")


def _unknown(what: str, name: str, choices: Iterable[str]) -> ConfigError:
    return ConfigError(what, or_else(nearest(name, choices), "remove it"))
