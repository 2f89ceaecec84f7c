"""The `evaluate` section."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipeline.config import Section
from pipeline.preprocess.config import SourceConfig


class TruthConfig(Section):
    """A table with the true probability (or expected value) of every row: one column per task, and the row key."""

    path: str
    key: str = Field(description="the column that equals the schema's row key")


class SliceConfig(Section):
    """A column by whose values the report is divided; its name alone will do.

    A feature with one value per row, a key column, `day` (of the key `time`, in UTC), `new_user` or `new_item` (whether
    the model knows the value of that key).
    """

    column: str = Field(min_length=1)
    buckets: int | None = Field(
        None, ge=2, le=100, description="of numbers: at most so many, each with an equal share of the rows; default 5"
    )
    top: int | None = Field(
        None, ge=1, description="of values: the most frequent so many, and all others together; default 20, all days"
    )

    @model_validator(mode="after")
    def _one_way(self) -> "SliceConfig":
        if self.buckets and self.top:
            raise ValueError("buckets are of numbers and top of values: give one of the two")
        return self


class PredictionsConfig(SourceConfig):
    """A finished table: predictions of any model, with labels and keys, a row per impression.

    Labels, keys, the weight and slices stand under the names of the schema, what was predicted as `prediction_<output>`
    and, by a model to compare with, as `baseline_<output>`.
    """

    columns: dict[str, str] = Field(
        default_factory=dict, description="by such a name, the column of the table where it has another one"
    )


def _named(value: Any) -> Any:
    return {"column": value} if isinstance(value, str) else value


Slice = Annotated[SliceConfig, BeforeValidator(_named, json_schema_input_type=SliceConfig | str)]


class EvaluateConfig(Section):
    split: Literal["validation", "test"] = "test"
    batch_size: int = Field(8192, ge=1)
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the dense part's products when rows are predicted; tables and outputs stay float32"
    )
    truth: TruthConfig | None = Field(None, description="of a simulated log: gives the best reachable values")
    slices: tuple[Slice, ...] | None = Field(
        None, description="default: day, new_user and new_item, as far as the keys allow"
    )
    weighted: bool = Field(True, description="rows count by the schema's weight, as they do in the losses")
    num_replicates: int = Field(200, ge=10, description="of the bootstrap over users that intervals come from")
    k: int = Field(10, ge=1, description="how many of a request's rows ndcg@k and recall@k look at")
    min_slice_rows: int = Field(1000, ge=1, description="a slice with fewer rows, or fewer than 50 positives, is small")
    importance_rows: int = Field(
        20_000, ge=0, description="a sample of rows on which each feature is permuted to see what it is worth; 0: never"
    )
    baseline: str | None = Field(None, description="a checkpoint to compare with, on the same rows")
    predictions: PredictionsConfig | None = Field(
        None, description="a finished table that `gatehouse evaluate` measures instead of a checkpoint"
    )

    @model_validator(mode="after")
    def _one_baseline(self) -> "EvaluateConfig":
        if self.baseline and self.predictions:
            raise ValueError("a finished table has the model to compare with in its columns baseline_<output>")
        return self
