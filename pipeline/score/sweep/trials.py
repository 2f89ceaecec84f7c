"""What a sweep measures: the rankings by every trial, by the formula in use and by each task alone, and by what."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from pipeline.config import nearest, or_else
from pipeline.errors import ConfigError
from pipeline.evaluate.prediction_table import Measured, measured_things
from pipeline.run_config import RunConfig
from pipeline.schema import Schema, TaskSchema
from pipeline.score.config import SweepConfig
from pipeline.score.formula import bind, parse_fusion
from pipeline.score.grammar import FUNCTIONS, FUSION_TOKEN

WHERE = "score.sweep.formula"
MAX_TRIALS = 2000
DEFAULT_NUM_TRIALS = 100
VALUE = "value"
NDCG_PREFIX = "ndcg_"
CURRENT = "score.fusion"


@dataclass(frozen=True)
class Ranking:
    """A formula to rank by; `name` is that of the formula in use, of a task, or the place of a trial, from 1."""

    name: str
    role: Literal["current", "task", "trial"]
    formula: str
    parameters: Mapping[str, float]


class Objective(NamedTuple):
    """A task as all impressions see it: its label is 0 where that of an earlier task of its chain is."""

    task: str
    thing: Measured
    formula: str

    @property
    def metric(self) -> str:
        return NDCG_PREFIX + self.task


@dataclass(frozen=True)
class Plan:
    """What is measured, by which metrics; `unused` says why the formula in use is not among the rankings, if so."""

    rankings: Sequence[Ranking]
    objectives: Sequence[Objective]
    values: Mapping[str, float]
    k: int
    unused: str | None

    @property
    def metrics(self) -> list[str]:
        return [VALUE, *(one.metric for one in self.objectives)]


def plan_sweep(config: RunConfig) -> Plan:
    """The plan of a checked section.

    Raises:
        ConfigError: there is no such section, or something in it is wrong.
    """
    section = config.score.sweep if config.score else None
    if config.score is None or section is None:
        raise ConfigError("the configuration has no section score.sweep", "add it: formula, parameters and values")
    schema = config.data_schema
    if not (schema.keys.request or schema.keys.user):
        raise ConfigError(
            "a sweep ranks within requests or users, and the schema has neither key", "name one in schema.keys"
        )
    objectives = list_objectives(schema)
    tasks = [one.task for one in objectives]
    for task in section.values:
        if task not in tasks:
            what = f"score.sweep.values names {task!r}, which is no task whose labels have a value"
            raise ConfigError(what, or_else(nearest(task, tasks), "remove it"))
    metrics = [VALUE, *(one.metric for one in objectives)]
    if section.metric not in metrics:
        raise ConfigError(f"score.sweep.metric is {section.metric!r}", nearest(section.metric, metrics).rstrip("?"))
    outputs = [name for task in schema.tasks for name in task.output_names]
    trials = _plan_trials(section, outputs)
    alone = [Ranking(one.task, "task", one.formula, {}) for one in objectives]
    current, unused = [Ranking(CURRENT, "current", config.score.fusion, {})], None
    try:
        parse_fusion(config.score.fusion, outputs)
    except ConfigError as error:
        current, unused = [], error.what
    return Plan([*current, *alone, *trials], objectives, section.values, section.k or config.score.top_k, unused)


def list_objectives(schema: Schema) -> list[Objective]:
    """One per task but multiclass ones, which have no order."""
    by_name = {task.name: task for task in schema.tasks}
    return [
        Objective(thing.name, thing._replace(scope="all impressions"), _formula(by_name[thing.name], by_name))
        for thing in measured_things(schema.tasks)
        if thing.scope == "own space" and thing.kind != "multiclass"
    ]


def _formula(task: TaskSchema, by_name: Mapping[str, TaskSchema]) -> str:
    """What the model expects of the task on all impressions."""
    if task.kind == "binary" or task.space is None:
        return task.output_names[-1]
    return f"{by_name[task.space].output_names[-1]} * {task.name}"


def _plan_trials(section: SweepConfig, outputs: Sequence[str]) -> list[Ranking]:
    for name in section.parameters:
        match = FUSION_TOKEN.fullmatch(name)
        if match is None or match.lastgroup != "name" or name in outputs or name in FUNCTIONS:
            taken = "an output of the model" if name in outputs else "a function" if name in FUNCTIONS else "no name"
            raise ConfigError(
                f"score.sweep.parameters has {name!r}, which is {taken}", "call the parameter a, or weight"
            )
    formula = parse_fusion(section.formula, outputs, section.parameters, where=WHERE, others="parameter")
    for name in section.parameters:
        if name not in formula.names:
            raise ConfigError(
                f"score.sweep.parameters has {name!r}, which {WHERE} does not name",
                "use it in the formula or remove it",
            )
    trials: list[Ranking] = []
    for values in _draw(section):
        bound = bind(section.formula, values)
        parse_fusion(bound, outputs, where=WHERE)
        trials.append(Ranking(str(len(trials) + 1), "trial", bound, values))
    return trials


def _draw(section: SweepConfig) -> list[dict[str, float]]:
    """The values of the parameters in each trial: all of a grid, or a random search's."""
    if all(one.choices for one in section.parameters.values()):
        grid = [list(dict.fromkeys(one.choices or ())) for one in section.parameters.values()]
        _check_number(math.prod(map(len, grid)), "parameters")
        return [dict(zip(section.parameters, values, strict=True)) for values in itertools.product(*grid)]
    num_trials = section.num_trials or DEFAULT_NUM_TRIALS
    _check_number(num_trials, "num_trials")
    rng = np.random.default_rng(section.seed)
    columns = {}
    for name, one in section.parameters.items():
        if one.choices:
            columns[name] = rng.choice(one.choices, num_trials).tolist()
        else:
            assert one.low is not None
            assert one.high is not None
            # What is reported is what was measured: few digits.
            drawn = (float(f"{value:.4g}") for value in rng.uniform(one.low, one.high, num_trials))
            columns[name] = [min(max(value, one.low), one.high) for value in drawn]
    rows = dict.fromkeys(zip(*columns.values(), strict=True))
    return [dict(zip(columns, values, strict=True)) for values in rows]


def _check_number(number: int, key: str) -> None:
    if number > MAX_TRIALS:
        raise ConfigError(
            f"score.sweep.{key} gives {number:,} trials, and a sweep has at most {MAX_TRIALS:,}",
            "give fewer, or ranges {low, high} and num_trials",
        )
