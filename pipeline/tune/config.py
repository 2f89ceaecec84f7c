"""The `tune` section: which keys of the configuration are searched, by how many trials, and what a good trial is."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, FiniteFloat, model_validator

from pipeline.config import Section
from pipeline.gate.config import Margin

Number = int | FiniteFloat
Weight = Annotated[FiniteFloat, Field(ge=0)]


class TunedKeyConfig(Section):
    """What a key may be: one of some values, a list of which alone will do, or any number in a range.

    Of a range whose two ends are written as whole numbers, whole numbers are drawn, both ends among them.
    """

    values: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    low: Number | None = None
    high: Number | None = None
    scale: Literal["linear", "log"] = "linear"

    @model_validator(mode="after")
    def _one_way(self) -> "TunedKeyConfig":
        if self.values is not None and (self.low, self.high, self.scale) != (None, None, "linear"):
            raise ValueError("values are a list, and low, high and scale a range: give one of the two")
        if self.values is None:
            if self.low is None or self.high is None:
                raise ValueError("a parameter needs a list of values, or low and high")
            if self.low >= self.high:
                raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
            if self.scale == "log" and self.low <= 0:
                raise ValueError(f"low is {self.low:g}, and on a log scale it must be above 0")
        return self

    @property
    def ends(self) -> tuple[Any, ...]:
        """All values of a list, the two ends of a range."""
        return (self.low, self.high) if self.values is None else self.values

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


def _listed(value: Any) -> Any:
    return {"values": value} if isinstance(value, list | tuple) else value


TunedKey = Annotated[TunedKeyConfig, BeforeValidator(_listed, json_schema_input_type=TunedKeyConfig | tuple[Any, ...])]


class ConstraintConfig(Section):
    """What the main metric of a task must hold in a trial that is chosen."""

    min: FiniteFloat | None = Field(None, description="the lowest value allowed")
    max: FiniteFloat | None = Field(None, description="the highest value allowed, of an error")
    max_loss: Margin | None = Field(
        None,
        description="how much worse than trial 0 it may be: in the metric's unit, or a share of its value such as 1%",
    )

    @model_validator(mode="after")
    def _says_something(self) -> "ConstraintConfig":
        if self.min is None and self.max is None and self.max_loss is None:
            raise ValueError("a constraint needs min, max or max_loss")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min is above max")
        return self


class TuneConfig(Section):
    """The search, `gatehouse tune`. Trial 0 is the configuration as it stands; others are drawn at random."""

    parameters: dict[str, TunedKey] = Field(
        min_length=1,
        description="by key of model or train as in --set, or seed: a list of values, or {low, high, scale}",
    )
    trials: int = Field(20, ge=2, le=10_000, description="how many there are, trial 0 among them")
    seed: int = Field(0, ge=0, description="of the draws")
    concurrent: int = Field(1, ge=1, description="trials at a time")
    weights: dict[str, Weight] | None = Field(
        None,
        description="by task, how much the relative gain of its main metric counts in the objective; a task that is "
        "not named does not count. Default: all count alike",
    )
    constraints: dict[str, ConstraintConfig] = Field(default_factory=dict, description="by task, on its main metric")

    @model_validator(mode="after")
    def _has_an_objective(self) -> "TuneConfig":
        if self.weights is not None and not any(self.weights.values()):
            raise ValueError("weights counts no task: give at least one a weight above 0")
        return self
