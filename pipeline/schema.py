"""What the columns of a log mean: features, keys and tasks. Its fingerprint travels with every artifact."""

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, field_validator, model_validator

from pipeline.config import Section, nearest

# The first rows of every embedding table, whatever the encoding.
UNSEEN_ROW = 0
NULL_ROW = 1
NUM_RESERVED_ROWS = 2

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=64)]
LabelValue = str | int | bool


class _Feature(Section):
    name: Name
    column: str | None = Field(None, description="the column it is read from; default: the feature's name")

    @property
    def source_column(self) -> str:
        return self.column or self.name


class _SparseFeature(_Feature):
    table: Name | None = Field(None, description="share the embedding table of this other feature")
    min_count: int = Field(1, ge=1, description="a value seen less often in training becomes 'unseen'")
    max_size: int | None = Field(None, ge=1, description="keep at most this many values, the most frequent ones")
    num_hash_buckets: int | None = Field(None, ge=1, description="hash the values instead of keeping a vocabulary")

    @property
    def table_name(self) -> str:
        return self.table or self.name

    @model_validator(mode="after")
    def _one_encoding(self) -> "_SparseFeature":
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


class CategoricalFeature(_SparseFeature):
    """One value per row, text or integer."""

    kind: Literal["categorical"]


class MultiValuedFeature(_SparseFeature):
    """Several values per row: a list column, or text split at `delimiter`."""

    kind: Literal["multi_valued"]
    delimiter: str | None = Field(None, min_length=1)
    max_length: int = Field(64, ge=1, description="values after this many are cut and counted")


class HistoryFeature(_SparseFeature):
    """Ids of earlier items, most recent first: a list column, or text split at `delimiter`."""

    kind: Literal["history"]
    delimiter: str | None = Field(None, min_length=1)
    max_length: int = Field(50, ge=1, description="ids after this many are cut and counted")


class NumericFeature(_Feature):
    """A number: clipped, then log1p, then standardised with the training split's mean and deviation."""

    kind: Literal["numeric"]
    clip: tuple[FiniteFloat, FiniteFloat] | None = None
    log1p: bool = False
    standardise: bool = True
    null_indicator: bool = Field(False, description="add a 0/1 input that says the value was null")

    @field_validator("clip")
    @classmethod
    def _ordered(cls, clip: tuple[float, float] | None) -> tuple[float, float] | None:
        if clip is not None and not clip[0] < clip[1]:
            raise ValueError("the lower bound must be below the upper bound")
        return clip


SparseFeature = CategoricalFeature | MultiValuedFeature | HistoryFeature
Feature = Annotated[
    CategoricalFeature | MultiValuedFeature | HistoryFeature | NumericFeature, Field(discriminator="kind")
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
        owners = {f.name for f in self.sparse_features if f.table is None}
        for feature in self.sparse_features:
            if feature.table_name not in owners:
                raise ValueError(
                    f"feature {feature.name!r} shares table {feature.table!r}, which no feature owns: "
                    f"{nearest(feature.table_name, owners)}"
                )
        self._check_spaces()
        self._check_outputs()
        self._check_labels()
        return self

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
            if feature.source_column in labels:
                raise ValueError(
                    f"feature {feature.name!r} reads {feature.source_column!r}, "
                    f"which is the label of task {labels[feature.source_column]!r}"
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
        return {f.name: 1 if isinstance(f, CategoricalFeature) else f.max_length for f in self.sparse_features}

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
        return {f.name: f for f in self.sparse_features if f.table is None}

    def input_columns(self) -> list[str]:
        """The raw columns that features and keys are read from."""
        return list(dict.fromkeys([*self.keys.columns(), *(f.source_column for f in self.features)]))

    def label_columns(self) -> list[str]:
        return list(dict.fromkeys(task.label for task in self.tasks))

    def fingerprint(self) -> str:
        """A sha256 over the meaning of the schema: it changes when encoded rows would."""
        return hashlib.sha256(_canonical(self.model_dump(mode="json")).encode()).hexdigest()

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
        before, now = other[name].model_dump(), mine[name].model_dump()
        phrases += [
            f"{kind} {name!r}: {key} was {before.get(key)!r}, is {now.get(key)!r}"
            for key in sorted(before.keys() | now.keys())
            if _canonical(before.get(key)) != _canonical(now.get(key))
        ]
    if not phrases and [x.name for x in ours] != [x.name for x in theirs]:
        phrases.append(f"the {kind}s are in another order")
    return sorted(phrases)


def _canonical(value: Any) -> str:
    # Keys are not sorted: those of a section have a fixed order, and the order of classes is that of the outputs.
    return json.dumps(value, separators=(",", ":"))
