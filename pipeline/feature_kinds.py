"""The kinds of features: how each reads columns of the log, and what is looked up for it in which embedding table."""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, FiniteFloat, field_validator, model_validator

from pipeline.config import Section

# The first rows of every embedding table, whatever the encoding.
UNSEEN_ROW = 0
NULL_ROW = 1
NUM_RESERVED_ROWS = 2

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=64)]
TimeUnit = Literal["nanoseconds", "microseconds", "milliseconds", "seconds", "minutes", "hours", "days"]
CountedTimeUnit = Annotated[
    TimeUnit, Field(description="of times that are numbers, counted from the start of 1970 in UTC")
]

DEFAULT_TIME_UNIT: TimeUnit = "seconds"
DEFAULT_WEIGHT_DELIMITER = ":"
TIME_PART_VALUES = {"hour": 24, "weekday": 7, "day_of_month": 31, "month": 12}


class _Feature(Section):
    name: Name = Field(description="of the feature, and of its embedding table if it owns one")


class _ColumnFeature(_Feature):
    column: str | None = Field(None, description="the column it is read from; default: the feature's name")

    @property
    def source_column(self) -> str:
        return self.column or self.name

    @property
    def input_columns(self) -> list[str]:
        """The columns that it is read from; a history with times is read from the key `time` as well."""
        return [self.source_column]


class _SparseFeature(_Feature):
    """What is looked up in an embedding table: here one value per row, in a table of its own."""

    @property
    def table_name(self) -> str:
        return self.name

    @property
    def owns_table(self) -> bool:
        return True

    @property
    def fixed_rows(self) -> int | None:
        """The rows of its table, the reserved ones included, where no vocabulary decides them."""
        return None


class VocabularyFeature(_ColumnFeature, _SparseFeature):
    """Values with a vocabulary or hashed, in a table of their own or that of another feature."""

    table: Name | None = Field(None, description="share the embedding table of this other feature")
    min_count: int = Field(1, ge=1, description="a value seen less often in training becomes 'unseen'")
    max_size: int | None = Field(None, ge=1, description="keep at most this many values, the most frequent ones")
    num_hash_buckets: int | None = Field(None, ge=1, description="hash the values instead of keeping a vocabulary")

    @property
    def table_name(self) -> str:
        return self.table or self.name

    @property
    def owns_table(self) -> bool:
        return self.table is None

    @property
    def fixed_rows(self) -> int | None:
        return NUM_RESERVED_ROWS + self.num_hash_buckets if self.num_hash_buckets else None

    @model_validator(mode="after")
    def _one_encoding(self) -> Self:
        # Compared with the defaults, not with what was written, so that a dumped schema loads again.
        settings = {
            "min_count": self.min_count > 1,
            "max_size": self.max_size,
            "num_hash_buckets": self.num_hash_buckets,
        }
        given = [name for name, value in settings.items() if value]
        if self.table and given:
            raise ValueError(f"{given[0]} belongs to the feature that owns table {self.table!r}")
        if self.num_hash_buckets and len(given) > 1:
            raise ValueError("a hashed feature has no vocabulary, so min_count and max_size do not apply")
        return self


class CategoricalFeature(VocabularyFeature):
    """One value per row, text or integer."""

    kind: Literal["categorical"]


class MultiValuedFeature(VocabularyFeature):
    """Several values per row: a list column, or text split at `delimiter`."""

    kind: Literal["multi_valued"]
    delimiter: str | None = Field(None, min_length=1, description="splits texts; not needed for a list column")
    max_length: int = Field(64, ge=1, description="values after this many are cut and counted")


class WeightedMultiValuedFeature(VocabularyFeature):
    """Several values per row, each with a weight: the row's embedding is the weighted mean of theirs.

    Values are `id:weight` pieces of a text or elements of a list; or ids, with their weights in the column `weights`.
    """

    kind: Literal["weighted_multi_valued"]
    delimiter: str | None = Field(None, min_length=1, description="splits texts; not needed for a list column")
    weight_delimiter: str = Field(
        DEFAULT_WEIGHT_DELIMITER, min_length=1, description="the last one in a value separates its id and its weight"
    )
    weights: str | None = Field(
        None, min_length=1, description="the column with the weights, as many as there are ids; a null weight is 1"
    )
    max_length: int = Field(64, ge=1, description="values after this many are cut and counted")

    @property
    def input_columns(self) -> list[str]:
        return [self.source_column, *([self.weights] if self.weights else [])]

    @model_validator(mode="after")
    def _delimiters_differ(self) -> Self:
        if self.weights and self.weight_delimiter != DEFAULT_WEIGHT_DELIMITER:
            raise ValueError("weight_delimiter does not apply where the column `weights` has the weights")
        if self.delimiter == self.weight_delimiter and not self.weights:
            raise ValueError(f"delimiter and weight_delimiter are both {self.delimiter!r}")
        return self


class HistoryFeature(VocabularyFeature):
    """Ids of earlier items, most recent first: a list column, or text split at `delimiter`.

    With `times` the ids may be in any order. Those of events at or after the row's own time, the key `time`, are
    dropped and counted, as are those without a time; the others are put in order before they are cut.
    """

    kind: Literal["history"]
    delimiter: str | None = Field(None, min_length=1, description="splits texts; not needed for a list column")
    max_length: int = Field(50, ge=1, description="ids after this many are cut and counted")
    times: str | None = Field(
        None, min_length=1, description="the column with the times of the events, as many as there are ids"
    )
    time_unit: CountedTimeUnit = DEFAULT_TIME_UNIT

    @property
    def input_columns(self) -> list[str]:
        return [self.source_column, *([self.times] if self.times else [])]

    @model_validator(mode="after")
    def _unit_is_of_times(self) -> Self:
        if self.time_unit != DEFAULT_TIME_UNIT and not self.times:
            raise ValueError("time_unit applies to a history with times")
        return self


class CrossedFeature(_SparseFeature):
    """The values of several columns taken together as one value, hashed into a table of its own; null if any is."""

    kind: Literal["crossed"]
    columns: tuple[str, ...] = Field(min_length=2, description="columns of single values")
    num_hash_buckets: int = Field(ge=1, description="the rows of its table")

    @property
    def input_columns(self) -> list[str]:
        return list(self.columns)

    @property
    def fixed_rows(self) -> int:
        return NUM_RESERVED_ROWS + self.num_hash_buckets

    @field_validator("columns")
    @classmethod
    def _distinct(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        for name in columns:
            if columns.count(name) > 1:
                raise ValueError(f"column {name!r} is named twice")
        return columns


class TimePartFeature(_ColumnFeature, _SparseFeature):
    """A part of a time, such as its hour, with a table of its own.

    Times are timestamps or dates, ISO texts, or numbers counted from 1970; without a zone they are UTC.
    """

    kind: Literal["time_part"]
    part: Literal["hour", "weekday", "day_of_month", "month"] = Field(description="weekdays start with Monday")
    utc_offset_hours: float = Field(0.0, ge=-24, le=24, description="of the local time that the part is of")
    time_unit: CountedTimeUnit = DEFAULT_TIME_UNIT

    @property
    def fixed_rows(self) -> int:
        return NUM_RESERVED_ROWS + TIME_PART_VALUES[self.part]


class BucketedFeature(_ColumnFeature, _SparseFeature):
    """A number as the bucket it falls into, with a table of its own; null and not finite numbers have the null row."""

    kind: Literal["bucketed"]
    num_buckets: int | None = Field(
        None, ge=2, description="at most so many, each with an equal share of the training rows"
    )
    boundaries: tuple[FiniteFloat, ...] | None = Field(
        None, min_length=1, description="in ascending order; a number equal to one is in the bucket above it"
    )

    @property
    def fixed_rows(self) -> int:
        return NUM_RESERVED_ROWS + (self.num_buckets or len(self.boundaries or ()) + 1)

    @field_validator("boundaries")
    @classmethod
    def _ascending(cls, boundaries: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if boundaries and any(low >= high for low, high in pairwise(boundaries)):
            raise ValueError("each boundary must be above the one before it")
        return boundaries

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.num_buckets is None) == (self.boundaries is None):
            raise ValueError("a bucketed feature needs either num_buckets or boundaries")
        return self


class NumericFeature(_ColumnFeature):
    """A number: clipped, then log1p, then standardised with the training split's mean and deviation.

    With `since` it is an age: the time in `column` less the time in `since`.
    """

    kind: Literal["numeric"]
    clip: tuple[FiniteFloat | None, FiniteFloat | None] | None = Field(
        None, description="the lowest and the highest number; null leaves an end open"
    )
    log1p: bool = Field(False, description="the natural logarithm of 1 + the number")
    standardise: bool = Field(True, description="subtract the mean and divide by the deviation")
    null_indicator: bool = Field(False, description="add a 0/1 input that says the value was null")
    fill: Literal["mean"] | FiniteFloat | None = Field(
        None,
        description="what a null counts as: the training mean, or a number, which is clipped and so on like any other; "
        "default: an input of 0, which is the mean if the feature is standardised",
    )
    since: str | None = Field(None, min_length=1, description="the column with the earlier time of an age")
    unit: TimeUnit = Field(DEFAULT_TIME_UNIT, description="of an age")
    time_unit: CountedTimeUnit = DEFAULT_TIME_UNIT

    @property
    def input_columns(self) -> list[str]:
        return [self.source_column, *([self.since] if self.since else [])]

    @field_validator("clip")
    @classmethod
    def _ordered(cls, clip: tuple[float | None, float | None] | None) -> tuple[float | None, float | None] | None:
        if clip is None:
            return clip
        low, high = clip
        if low is None and high is None:
            raise ValueError("one of the bounds must be a number")
        if low is not None and high is not None and not low < high:
            raise ValueError("the lower bound must be below the upper bound")
        return clip

    @model_validator(mode="after")
    def _settings_apply(self) -> Self:
        for name in ("unit", "time_unit"):
            if getattr(self, name) != DEFAULT_TIME_UNIT and not self.since:
                raise ValueError(f"{name} applies to an age, which needs since")
        lowest = self.clip[0] if self.clip else None
        if self.log1p and isinstance(self.fill, float) and self.fill < 0 and (lowest is None or lowest < 0):
            raise ValueError(f"fill is {self.fill:g}, below 0, where log1p has no use")
        return self


ListFeature = MultiValuedFeature | WeightedMultiValuedFeature | HistoryFeature
TextFeature = CategoricalFeature | ListFeature | CrossedFeature | TimePartFeature
SparseFeature = TextFeature | BucketedFeature
Feature = Annotated[
    CategoricalFeature
    | MultiValuedFeature
    | WeightedMultiValuedFeature
    | HistoryFeature
    | CrossedFeature
    | TimePartFeature
    | BucketedFeature
    | NumericFeature,
    Field(discriminator="kind"),
]
