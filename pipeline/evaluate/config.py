"""The `evaluate` section."""

from typing import Literal

from pydantic import Field

from pipeline.config import Section


class TruthConfig(Section):
    """A table with the true probability (or expected value) of every row: one column per task, and the row key."""

    path: str
    key: str = Field(description="the column that equals the schema's row key")


class EvaluateConfig(Section):
    split: Literal["validation", "test"] = "test"
    batch_size: int = Field(8192, ge=1)
    truth: TruthConfig | None = Field(None, description="of a simulated log: gives the best reachable values")
