"""The `retrain.gate` section, the policy: what a challenger must hold to become the champion."""

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, FiniteFloat, model_validator

from pipeline.config import Section

PERCENTAGE = re.compile(r"(\d+(?:\.\d+)?)%")


def _check_margin(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and value >= 0:
        return value
    if isinstance(value, str) and PERCENTAGE.fullmatch(value):
        return value
    raise ValueError("not a number in the metric's unit such as 0.002, or a share of the champion's value such as 1%")


Margin = Annotated[float | str, BeforeValidator(_check_margin)]


class MetricRules(Section):
    """What one metric of a task must hold; a rule that is not given is not applied, or is that of `default`."""

    min: FiniteFloat | None = Field(None, description="the lowest value allowed")
    max: FiniteFloat | None = Field(None, description="the highest value allowed")
    max_loss: Margin | None = Field(
        None,
        description="how much worse than the champion it may be; the whole interval of the difference must keep it",
    )
    min_gain: Margin | None = Field(
        None, description="how much better than the champion it must be, significantly; 0: significantly better at all"
    )

    @model_validator(mode="after")
    def _bounds_hold(self) -> "MetricRules":
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min is above max")
        return self


class CalibrationRules(Section):
    """Bounds of the sum of the predictions over the sum of the labels."""

    min: FiniteFloat = 0.8
    max: FiniteFloat = 1.25


class DefaultRules(Section):
    """What holds of every measured task where `tasks` says nothing else of the same metric."""

    max_loss: Margin = Field("1%", description="of the main metric")
    calibration: CalibrationRules = CalibrationRules()


class SliceRules(Section):
    """No slice that is not small may lose more than this of a task's main metric, and significantly so."""

    max_loss: Margin = "2%"
    dimensions: tuple[str, ...] | None = Field(None, description="of evaluate.slices; default: all; []: none")


class DriftRules(Section):
    """How far the data may be from the earlier dataset that preprocess.contract.drift names."""

    max_psi: float = Field(0.25, gt=0, description="the population stability index of a feature's values")
    any_psi: tuple[str, ...] = Field(
        (),
        description="features that max_psi does not hold, such as an id of users who are others each day; their nulls "
        "and unseen values are held to the other bounds",
    )
    max_unseen_rate_increase: float = Field(0.2, ge=0, le=1, description="in the share of unseen values of the test")
    max_null_rate_increase: float = Field(0.2, ge=0, le=1, description="in the share of nulls of a feature")
    max_label_rate_change: float = Field(0.3, ge=0, description="in a task's mean label, as a share of the earlier")


class GateConfig(Section):
    """The whole policy. Every rule must pass; an undefined value passes none."""

    min_rows: int = Field(1000, ge=1, description="of the split that both models are measured on")
    alpha: float = Field(
        0.05, gt=0, lt=0.5, description="the level of every test, two-sided; intervals are of 1 - alpha"
    )
    tasks: dict[str, dict[str, MetricRules]] = Field(
        default_factory=dict, description="by task, as the report names it, and metric"
    )
    default: DefaultRules = DefaultRules()
    slices: SliceRules = SliceRules()
    drift: DriftRules | None = Field(DriftRules(), description="null: drift is not looked at")
