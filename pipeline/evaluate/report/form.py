"""The form of report.json, version 4: every field and what it means; `report_schema` gives it as a JSON schema.

The diagnostics are for people: `diagnostics/` says what they hold, and their form is not fixed.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Form(BaseModel):
    """A part of a file that others read, with these fields and no others."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Compared(Form):
    value: float | None = Field(description="null if undefined")
    low: float | None = Field(description="lower end of the 95% interval of the value; null with too few units")
    high: float | None
    reason: str | None = Field(description="why the value is undefined")
    baseline: float | None = Field(description="the baseline's value on the same rows; null without a baseline")
    baseline_reason: str | None = Field(description="why the baseline's value is undefined")
    difference: float | None = Field(description="the value less the baseline's")
    difference_low: float | None
    difference_high: float | None
    p_value: float | None = Field(description="two-sided, of no difference, from paired bootstrap replicates")


class TaskMetric(Compared):
    best: float | None = Field(description="the value with the truth as the prediction, where it is known")
    fraction_of_best: float | None = Field(description="the part of the way from the value at chance to the best")


class SliceMetric(Compared):
    adjusted_p_value: float | None = Field(description="for the number of large slices (Benjamini and Hochberg 1995)")


class CalibrationBucket(Form):
    rows: int
    mean_prediction: float
    mean_label: float
    low: float = Field(description="lower end of the 95% interval of the mean label")
    high: float


class TaskReport(Form):
    name: str
    kind: Literal["binary", "multiclass", "regression", "watch_time"]
    space: str | None = Field(description="the task on whose positive rows this one is defined")
    scope: Literal["own space", "all impressions"]
    rows: int
    positives: int | None = Field(description="null of what is not binary")
    metrics: dict[str, TaskMetric]
    main_metric: str
    calibration_curve: list[CalibrationBucket]


class SliceTask(Form):
    rows: int
    positives: int | None
    small: bool
    metrics: dict[str, SliceMetric]


class SliceReport(Form):
    dimension: str
    value: str
    rows: int
    share: float
    small: bool = Field(description="too few rows; a task in it may be small for having too few positives")
    tasks: dict[str, SliceTask]


class Units(Form):
    kind: Literal["user", "request", "row"]
    count: int


class ModelSource(Form):
    step: int | None = Field(description="null of a finished table")
    path: str


class Gain(Form):
    multi_task_gain: float | None = Field(description="mean over the tasks of the relative gain of the main metric")
    low: float | None
    high: float | None
    p_value: float | None
    seesaw: list[str] = Field(
        description="tasks that are significantly worse while another one is significantly better"
    )


class Mixture(Form):
    tasks: list[str]
    experts: list[str]
    mean_weight: list[list[float | None]] = Field(description="by task and expert; null if the gate does not see it")


class NewerValues(Form):
    values: int
    newer: int


class Report(Form):
    report_version: Literal[4]
    title: str
    split: str
    rows: int
    units: Units = Field(description="what the bootstrap draws")
    num_replicates: int
    model: ModelSource
    baseline: ModelSource | None
    schema_fingerprint: str
    tasks: list[TaskReport]
    slices: list[SliceReport]
    summary: list[str] = Field(description="a sentence for each of the tasks")
    gain: Gain | None = Field(description="null without a baseline")
    mixtures: dict[str, Mixture] = Field(description="the mean gate weights over the split, by level of experts")
    alarms: list[str] = Field(description="of the last inspection of the training")
    newer_values: dict[str, NewerValues] = Field(description="by feature: values that came after the training")
    diagnostics: dict[str, Any]


def report_schema() -> dict[str, Any]:
    """The JSON schema of report.json."""
    return Report.model_json_schema()
