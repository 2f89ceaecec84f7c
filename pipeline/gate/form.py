"""The form of decision.json, version 1: every field and what it means; `decision_schema` gives it as a JSON schema."""

from typing import Any, Literal

from pydantic import Field

from pipeline.evaluate.report.form import Form, ModelSource
from pipeline.evaluate.report.wording import format_difference, format_value, label_of
from pipeline.gate.config import GateConfig

DECISION_VERSION: Literal[1] = 1
RuleName = Literal[
    "challenger",
    "champion",
    "split",
    "schema",
    "rows",
    "min_rows",
    "num_replicates",
    "task",
    "main_metric",
    "min",
    "max",
    "max_loss",
    "min_gain",
    "slices.dimensions",
    "slices.max_loss",
    "drift",
    "drift.max_psi",
    "drift.max_unseen_rate_increase",
    "drift.max_null_rate_increase",
    "drift.max_label_rate_change",
]


class Slice(Form):
    dimension: str
    value: str


class Rule(Form):
    """One rule and how it went.

    Of max_loss, min_gain and slices.max_loss the numbers are gains: positive where the challenger is better, whichever
    way the metric goes, in its unit.
    """

    rule: RuleName = Field(description="the key of the policy, or the name of a rule that always holds")
    task: str | None = None
    metric: str | None = None
    slice: Slice | None = None
    feature: str | None = None
    value: float | None = Field(None, description="what was measured; null of what is no number, and if undefined")
    low: float | None = Field(
        None, description="lower end of the 1 - alpha interval of the value, where a rule needs it"
    )
    high: float | None = None
    p_value: float | None = Field(None, description="of no difference; of slices, adjusted for their number")
    bound: float | None = Field(None, description="what it must keep")
    passed: bool
    reason: str = Field(description="one sentence with the numbers, also where it passed")


class Decision(Form):
    decision_version: Literal[1]
    title: str = Field(description="that of the report")
    promoted: bool = Field(description="every rule passed")
    challenger: ModelSource
    champion: ModelSource | None = Field(description="null if there was none, and then nothing is compared")
    split: str
    rows: int
    schema_fingerprint: str
    policy: GateConfig
    rules: list[Rule]
    not_compared: list[str] = Field(description="what no rule looked at, and why")

    @property
    def refusals(self) -> list[str]:
        """The reason of each rule that did not pass."""
        return [one.reason for one in self.rules if not one.passed]

    @property
    def summary(self) -> str:
        """The main metric of each task, and what is gained over the champion."""
        gains = {(one.task, one.metric): one.value for one in self.rules if one.rule == "max_loss"}
        parts = []
        for one in self.rules:
            if one.rule == "main_metric" and one.metric is not None:
                gain = gains.get((one.task, one.metric))
                gained = "" if gain is None else f" (gain {format_difference(gain)})"
                parts.append(f"{one.task} {label_of(one.metric)} {format_value(one.value)}{gained}")
        return ", ".join(parts)


def decision_schema() -> dict[str, Any]:
    """The JSON schema of decision.json."""
    return Decision.model_json_schema()
