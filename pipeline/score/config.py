"""The `score` section: the candidate sets, the fusion of tasks, how many to keep."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, FiniteFloat, model_validator

from pipeline.config import Section
from pipeline.preprocess.config import SourceConfig


class ParameterConfig(Section):
    """What a parameter of a sweep may be: one of some numbers, a list of which alone will do, or any in a range."""

    choices: Annotated[tuple[FiniteFloat, ...], Field(min_length=1)] | None = None
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "ParameterConfig":
        has_range = self.low is not None and self.high is not None and self.low < self.high
        if has_range if self.choices else not has_range:
            raise ValueError("a parameter needs a list of numbers, or a low and a higher high")
        return self


def _listed(value: Any) -> Any:
    return {"choices": value} if isinstance(value, list | tuple) else value


Parameter = Annotated[
    ParameterConfig, BeforeValidator(_listed, json_schema_input_type=ParameterConfig | tuple[float, ...])
]


class SweepConfig(Section):
    """The search of a fusion on logged labels, `gatehouse score --sweep`."""

    formula: str = Field(description="a fusion with free parameters: click ** a * purchase ** b")
    parameters: dict[str, Parameter] = Field(
        min_length=1, description="of each, a list of numbers, all of which are tried, or {low, high}, drawn at random"
    )
    num_trials: int | None = Field(None, ge=1, description="with a range: how many are drawn; default 100")
    seed: int = Field(0, ge=0, description="of the draws")
    split: Literal["validation", "test"] = "validation"
    k: int | None = Field(None, ge=1, description="how many rows of a list count; default: score.top_k")
    values: dict[str, FiniteFloat] = Field(
        min_length=1, description="by task, what a positive (or 1 of a number) among the first k rows is worth"
    )
    metric: str = Field("value", description="what the best trial is chosen by: value, or ndcg_<task>")

    @model_validator(mode="after")
    def _draws_from_ranges(self) -> "SweepConfig":
        if self.num_trials and all(one.choices for one in self.parameters.values()):
            raise ValueError("num_trials is for ranges {low, high}; of lists every combination is tried")
        return self


class CapConfig(Section):
    """At most `max` candidates of a request are kept that have the same value of a column; a null is no value."""

    column: str
    max: int = Field(ge=1)


class ScoreConfig(Section):
    candidates: SourceConfig
    items_column: str | None = Field(
        None,
        description="the list column of the candidates' items, whose values match the item key; without it a row is a "
        "candidate, with an item key of its own",
    )
    fusion: str = Field(
        description="the fused score, over the model's outputs and columns of candidates and tables: "
        "click * purchase ** 0.5"
    )
    filters: tuple[str, ...] = Field((), description="conditions that every ranked candidate fulfils: price < 100")
    caps: tuple[CapConfig, ...] = Field((), description="in the order of ranks, how many of a kind are kept")
    top_k: int = Field(10, ge=1, description="candidates kept per request")
    format: Literal["parquet", "arrow"] = Field("parquet", description="of the files with ranked candidates")
    sweep: SweepConfig | None = Field(None, description="used by --sweep alone")
