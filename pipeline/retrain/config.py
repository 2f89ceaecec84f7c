"""The `retrain` section: when a retraining is due, which rows it trains and is measured on, and the gate's policy."""

from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field

from pipeline.config import Section
from pipeline.feature_kinds import TimeUnit
from pipeline.gate.config import GateConfig

Period = Literal["hour", "day", "week"]


def _as_utc_time(value: Any) -> Any:
    """A date is its first moment, and a time without a zone is UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return value
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value


UtcTime = Annotated[AwareDatetime, BeforeValidator(_as_utc_time), AfterValidator(lambda time: time.astimezone(UTC))]


class RetrainConfig(Section):
    """A slot is a time in UTC; a retraining for it sees the rows of the log before that time, and no others."""

    first_slot: UtcTime = Field(description="a date, or a time; without a zone it is in UTC")
    every: Period = "day"
    train_slots: int = Field(7, ge=1, description="how many slots of log are trained on when there is no champion")
    fresh_slots: int = Field(
        1, ge=1, description="the newest slots of log, trained on in the next one: champion and challenger meet on them"
    )
    validation_fraction: float = Field(
        0.1, gt=0, lt=1, description="of the requests, or else users, of the rows before them: for validation"
    )
    warm_start: bool = Field(True, description="train on from the champion; false: anew on `train_slots` each time")
    time_unit: TimeUnit | None = Field(
        None, description="of the key `time` if it holds numbers, counted from the start of 1970 in UTC"
    )
    gate: GateConfig = GateConfig()
    score: bool = Field(False, description="rank the candidates of the section `score` with the champion, at the end")
    keep: int = Field(3, ge=1, description="the workspaces of the newest slots that stay; versions are `registry.keep`")
