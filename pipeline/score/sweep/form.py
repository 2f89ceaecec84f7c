"""The form of sweep.json, version 1: every field and what it means; `sweep_schema` gives it as a JSON schema."""

from typing import Any, Literal

from pydantic import Field

from pipeline.evaluate.report.form import Form


class Metric(Form):
    value: float | None = Field(description="on the reporting half; null if undefined")
    low: float | None = Field(description="lower end of the 95% interval of the value; null with too few units")
    high: float | None
    reason: str | None = Field(description="why the value is undefined")
    chosen_by: float | None = Field(description="the same on the choosing half")


class Difference(Form):
    difference: float | None = Field(description="of two rankings of the same rows, on the reporting half")
    difference_low: float | None
    difference_high: float | None
    p_value: float | None = Field(description="two-sided, of no difference, from paired bootstrap replicates")


class Ranking(Form):
    name: str = Field(description="score.fusion, a task, or the place of a trial, from 1")
    formula: str
    parameters: dict[str, float]
    metrics: dict[str, Metric] = Field(description="value, and ndcg_<task> of each task")
    differences: dict[str, dict[str, Difference]] = Field(description="from score.fusion and from each task alone")
    on_front: bool = Field(description="whether no other trial beats it in all tasks, on the choosing half")


class Half(Form):
    rows: int
    units: int
    lists: int
    long_lists: int = Field(description="of more than k rows: the value of the others is the same in any order")


class Model(Form):
    step: int
    path: str


class Sweep(Form):
    sweep_version: Literal[1]
    title: str
    split: str
    model: Model
    schema_fingerprint: str
    formula: str
    k: int
    values: dict[str, float]
    metric: str = Field(description="what the best trial is chosen by")
    unit: Literal["user", "request"] = Field(description="what the bootstrap draws, and what is halved")
    ranked_within: Literal["user", "request"]
    num_replicates: int
    choosing: Half = Field(description="the half of the units that the best trial and the front are chosen on")
    reporting: Half = Field(description="the half that all values, intervals and differences are of")
    references: list[Ranking] = Field(description="the formula in use, if it can be measured, and each task alone")
    trials: list[Ranking]
    best: int = Field(description="the place of the best trial in `trials`, from 0")
    fusion: str = Field(description="its formula, for score.fusion")
    verdict: str = Field(description="whether it is better than the formula in use")
    notes: list[str]


def sweep_schema() -> dict[str, Any]:
    """The JSON schema of sweep.json."""
    return Sweep.model_json_schema()
