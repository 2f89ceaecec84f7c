"""What the columns of a log mean: features, keys and tasks. Its fingerprint travels with every artifact."""

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.config import Section, nearest
from pipeline.feature_kinds import (
    BucketedFeature,
    Feature,
    HistoryFeature,
    ListFeature,
    Name,
    NumericFeature,
    SparseFeature,
    VocabularyFeature,
)

LabelValue = str | int | bool
# Settings that came later count only where they are not at their default, so that earlier datasets stay valid.
LATER_SETTINGS = {"times", "time_unit", "fill", "since", "unit"}


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
