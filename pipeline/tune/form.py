"""The forms of tune.json and of a trial's trial.json, version 1: every field and what it means."""

from typing import Any, Literal

from pydantic import Field, FiniteFloat

from pipeline.evaluate.report.form import Form
from pipeline.tune.config import ConstraintConfig, TunedKeyConfig

TUNE_VERSION: Literal[1] = 1


class MeasuredValue(Form):
    value: FiniteFloat | None = Field(description="on the validation split; null if undefined")
    reason: str | None = Field(description="why the value is undefined")


class Outcome(Form):
    """What came of a trial, in its own workspace; written when it is over, and never changed after that."""

    trial_version: Literal[1]
    parameters: dict[str, Any] = Field(description="by key, the values that it set; empty for trial 0")
    metrics: dict[str, MeasuredValue] = Field(description="by task, its main metric; empty if the trial failed")
    step: int | None = Field(description="of the checkpoint that was measured, its best one")
    num_steps: int | None = Field(description="that it trained in all")
    seconds: float | None = Field(description="of the attempt that completed it; null if none did")
    failed: str | None = Field(description="why it has no value, in a line")


class TaskGain(Form):
    value: float | None = Field(description="of the main metric, on the validation split; null if undefined")
    reason: str | None = Field(description="why the value is undefined")
    base: float | None = Field(description="that of trial 0")
    gain: float | None = Field(description="relative to the base's, positive where the trial is better")


class HeldConstraint(Form):
    task: str
    rule: Literal["min", "max", "max_loss"]
    value: float | None = Field(
        description="of the main metric; of max_loss how much worse than trial 0's, in its unit"
    )
    bound: float | None = Field(description="what it must keep, in the metric's unit; null if undefined")
    passed: bool
    violation: float | None = Field(
        description="by how much it is broken, as a share of the bound or, of max_loss, of trial 0's value; 0 if it is "
        "not, and null if undefined"
    )


class Trial(Form):
    number: int = Field(description="0 is the configuration as it stands; also the name of its folder in trials/")
    parameters: dict[str, Any] = Field(
        description="by key; of trial 0 the values that the configuration has, without those that it does not say"
    )
    tasks: dict[str, TaskGain] = Field(description="empty if the trial failed")
    constraints: list[HeldConstraint]
    objective: float | None = Field(description="the weighted mean of the gains; null if one of them is undefined")
    feasible: bool = Field(description="the objective is defined, and all constraints are kept")
    violation: float | None = Field(description="the sum over the constraints; null if the trial has no value")
    reasons: list[str] = Field(description="why it is not feasible")
    step: int | None
    seconds: float | None
    failed: str | None


class TunedTask(Form):
    metric: str = Field(description="the main metric")
    better: Literal["higher", "lower"]
    weight: float = Field(description="in the objective")


class TuneReport(Form):
    tune_version: Literal[1]
    title: str
    split: Literal["validation"]
    schema_fingerprint: str
    parameters: dict[str, TunedKeyConfig]
    seed: int
    tasks: dict[str, TunedTask]
    constraints: dict[str, ConstraintConfig]
    trials: list[Trial] = Field(description="in the order of their numbers")
    ranking: list[int] = Field(description="the trials' numbers, best first")
    best: int | None = Field(description="the best feasible trial; null if none is feasible")
    summary: list[str] = Field(description="what was found, in sentences")
    notes: list[str]


def tune_schema() -> dict[str, Any]:
    """The JSON schema of tune.json."""
    return TuneReport.model_json_schema()
