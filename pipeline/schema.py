"""What the columns of a log mean: features, keys and tasks. Its fingerprint travels with every artifact."""

import hashlib
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import Field, FiniteFloat, field_validator, model_validator

from pipeline.config import Section, nearest

# The first rows of every embedding table, whatever the encoding.
UNSEEN_ROW = 0
NULL_ROW = 1
NUM_RESERVED_ROWS = 2

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=64)]
LabelValue = str | int | bool
TimeUnit = Literal["nanoseconds", "microseconds", "milliseconds", "seconds", "minutes", "hours", "days"]
CountedTimeUnit = Annotated[
    TimeUnit, Field(description="of times that are numbers, counted from the start of 1970 in UTC")
]

DEFAULT_TIME_UNIT: TimeUnit = "seconds"
DEFAULT_WEIGHT_DELIMITER = ":"
TIME_PART_VALUES = {"hour": 24, "weekday": 7, "day_of_month": 31, "month": 12}
# Settings that came later count only where they are not at their default, so that earlier datasets stay valid.
LATER_SETTINGS = {"times", "time_unit", "fill", "since", "unit"}


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


class KeyColumns(Section):
    """Raw columns kept beside the encoded ones, for grouped metrics, joins and output."""

    user: str | None = None
    item: str | None = None
    request: str | None = None
    time: str | None = None
    row: str | None = Field(None, description="a unique id of the impression")

    def columns(self) -> list[str]:
        """The key columns that are set, each once, in the order of the fields."""
        return list(dict.fromkeys(column for column in self.model_dump().values() if column))


class TaskSchema(Section):
    """One objective: what is predicted, from which label column, and on which rows it is defined."""

    name: Name
    kind: Literal["binary", "multiclass", "regression", "watch_time"]
    label: str = Field(description="the label column")
    positive: LabelValue | None = Field(None, description="the label value that counts as 1; every other value is 0")
    classes: Annotated[dict[Name, LabelValue], Field(min_length=2)] | None = Field(
        None, description="multiclass: the label value of each class, in the order of the model's outputs"
    )
    space: Name | None = Field(None, description="the binary task whose positive rows this task is defined on")

    @model_validator(mode="after")
    def _values_fit_the_kind(self) -> "TaskSchema":
        if self.positive is not None and self.kind != "binary":
            raise ValueError("positive applies to binary tasks only")
        if self.classes is not None and self.kind != "multiclass":
            raise ValueError("classes apply to multiclass tasks only")
        if self.classes is None and self.kind == "multiclass":
            raise ValueError("a multiclass task needs classes, which give each class a name and its label value")
        return self

    @property
    def output_names(self) -> list[str]:
        """What a model gives for this task, by name: `output_names` of models.tasks, without torch."""
        names = [f"{self.name}_{name}" for name in self.classes] if self.classes else [self.name]
        has_joint = self.kind == "binary" and self.space is not None
        return [*names, f"joint_{self.name}"] if has_joint else names


class Schema(Section):
    """Features, keys and tasks of one log.

    The order of features and tasks here is the order of columns in shards and of tasks in tensors.
    """

    keys: KeyColumns = KeyColumns()
    features: tuple[Feature, ...] = Field(min_length=1)
    tasks: tuple[TaskSchema, ...] = Field(min_length=1)
    weight: str | None = Field(
        None, min_length=1, description="the column with the weight of each row in the losses; default: 1 each"
    )

    @model_validator(mode="after")
    def _references_hold(self) -> "Schema":
        for kind, names in (("feature", [f.name for f in self.features]), ("task", [t.name for t in self.tasks])):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{kind} {twice[0]!r} is declared twice")
        self._check_tables()
        self._check_times()
        self._check_spaces()
        self._check_outputs()
        self._check_labels()
        return self

    def _check_tables(self) -> None:
        owners = self.table_owners()
        shareable = [name for name, owner in owners.items() if isinstance(owner, VocabularyFeature)]
        for feature in self.sparse_features:
            table = feature.table_name
            if table not in owners:
                raise ValueError(
                    f"feature {feature.name!r} shares table {table!r}, which no feature owns: "
                    f"{nearest(table, shareable)}"
                )
            if not feature.owns_table and table not in shareable:
                raise ValueError(
                    f"feature {feature.name!r} shares table {table!r}, whose rows are not values of a column: feature "
                    f"{table!r} is {owners[table].kind}"
                )

    def _check_times(self) -> None:
        for feature in self.features:
            if isinstance(feature, HistoryFeature) and feature.times and not self.keys.time:
                raise ValueError(f"feature {feature.name!r} has times, which needs keys.time, the row's own time")

    def _check_spaces(self) -> None:
        earlier: dict[str, TaskSchema] = {}
        for task in self.tasks:
            if task.space is not None:
                if task.space not in earlier:
                    raise ValueError(
                        f"task {task.name!r} has space {task.space!r}, which is not a task declared before it: "
                        f"{nearest(task.space, earlier)}"
                    )
                if earlier[task.space].kind != "binary":
                    raise ValueError(f"task {task.name!r} has space {task.space!r}, which is not a binary task")
            earlier[task.name] = task

    def _check_outputs(self) -> None:
        # Tasks and outputs stand side by side in reports and ranked candidates.
        owners: dict[str, str] = {}
        for task in self.tasks:
            for name in dict.fromkeys([task.name, *task.output_names]):
                if name in owners:
                    raise ValueError(f"tasks {owners[name]!r} and {task.name!r} would both give an output {name!r}")
                owners[name] = task.name

    def _check_labels(self) -> None:
        labels = {task.label: task.name for task in self.tasks}
        for feature in self.features:
            for column in feature.input_columns:
                if column in labels:
                    raise ValueError(
                        f"feature {feature.name!r} reads {column!r}, which is the label of task {labels[column]!r}"
                    )
        if self.weight in labels:
            raise ValueError(
                f"weight {self.weight!r} is the label of task {labels[self.weight]!r}, whose rows with label 0 would "
                "not count"
            )

    @property
    def sparse_features(self) -> list[SparseFeature]:
        return [f for f in self.features if not isinstance(f, NumericFeature)]

    @property
    def max_ids_per_row(self) -> dict[str, int]:
        """How many ids a row may have of each sparse feature."""
        return {f.name: f.max_length if isinstance(f, ListFeature) else 1 for f in self.sparse_features}

    @property
    def bucketed_features(self) -> list[BucketedFeature]:
        return [f for f in self.features if isinstance(f, BucketedFeature)]

    @property
    def numeric_features(self) -> list[NumericFeature]:
        return [f for f in self.features if isinstance(f, NumericFeature)]

    @property
    def dense_names(self) -> list[str]:
        """The dense inputs in their order: each numeric feature, followed by its null indicator if it has one."""
        names = []
        for feature in self.numeric_features:
            names.append(feature.name)
            if feature.null_indicator:
                names.append(f"{feature.name}_is_null")
        return names

    def table_owners(self) -> dict[str, SparseFeature]:
        """Embedding table name to the feature that says how it is encoded."""
        return {f.name: f for f in self.sparse_features if f.owns_table}

    def vocabulary_owners(self) -> dict[str, VocabularyFeature]:
        """The same for the tables whose rows a vocabulary decides."""
        owners = self.table_owners().items()
        return {table: f for table, f in owners if isinstance(f, VocabularyFeature) and f.fixed_rows is None}

    def columns_of(self, feature: Feature) -> list[str]:
        """The raw columns that a feature is read from."""
        is_timed = isinstance(feature, HistoryFeature) and feature.times is not None
        return [*feature.input_columns, *([self.keys.time] if is_timed and self.keys.time else [])]

    def input_columns(self) -> list[str]:
        """The raw columns that features and keys are read from."""
        columns = (column for feature in self.features for column in feature.input_columns)
        return list(dict.fromkeys([*self.keys.columns(), *columns]))

    def label_columns(self) -> list[str]:
        return list(dict.fromkeys(task.label for task in self.tasks))

    def fingerprint(self) -> str:
        """A sha256 over the meaning of the schema: it changes when encoded rows would."""
        meaning = self.model_dump(mode="json") | {"features": [_meaning(feature) for feature in self.features]}
        return hashlib.sha256(_canonical(meaning).encode()).hexdigest()

    def differences(self, other: "Schema") -> list[str]:
        """What `other` declares differently, one short phrase each; empty when the fingerprints are equal."""
        return [
            *_differences("feature", self.features, other.features),
            *_differences("task", self.tasks, other.tasks),
            *([] if self.keys == other.keys else ["the key columns differ"]),
            *([] if self.weight == other.weight else [f"weight was {other.weight!r}, is {self.weight!r}"]),
        ]


def _differences(kind: str, ours: Sequence[Any], theirs: Sequence[Any]) -> list[str]:
    mine, other = {x.name: x for x in ours}, {x.name: x for x in theirs}
    phrases = [f"{kind} {name!r} is gone" for name in other if name not in mine]
    phrases += [f"{kind} {name!r} is new" for name in mine if name not in other]
    for name in mine.keys() & other.keys():
        before, now = _meaning(other[name]), _meaning(mine[name])
        phrases += [
            f"{kind} {name!r}: {key} was {before.get(key)!r}, is {now.get(key)!r}"
            for key in sorted(before.keys() | now.keys())
            if _canonical(before.get(key)) != _canonical(now.get(key))
        ]
    if not phrases and [x.name for x in ours] != [x.name for x in theirs]:
        phrases.append(f"the {kind}s are in another order")
    return sorted(phrases)


def _meaning(section: Section) -> dict[str, Any]:
    """The settings of a feature or a task, without the later ones that are at their default."""
    fields = type(section).model_fields
    return {
        name: value
        for name, value in section.model_dump().items()
        if name not in LATER_SETTINGS or value != fields[name].default
    }


def _canonical(value: Any) -> str:
    # Keys are not sorted: those of a section have a fixed order, and the order of classes is that of the outputs.
    return json.dumps(value, separators=(",", ":"))
