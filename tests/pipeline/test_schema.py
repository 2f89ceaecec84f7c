"""The rules of a schema, its fingerprint, and the differences it names."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.tasks import Task, output_names
from pipeline.config import build
from pipeline.errors import ConfigError
from pipeline.schema import Schema

FEELING = {"name": "feeling", "kind": "multiclass", "label": "felt", "classes": {"warm": 2, "cold": "two"}}


def section() -> dict[str, Any]:
    return {
        "keys": {"user": "user", "time": "at"},
        "features": [
            {"name": "user", "kind": "categorical", "min_count": 2},
            {"name": "item", "kind": "categorical"},
            {"name": "tags", "kind": "multi_valued", "delimiter": ","},
            {"name": "history", "kind": "history", "table": "item"},
            {"name": "age", "kind": "numeric", "null_indicator": True},
            {"name": "price", "kind": "numeric", "column": "item_price", "clip": [0, 10]},
        ],
        "tasks": [
            {"name": "click", "kind": "binary", "label": "clicked"},
            {"name": "like", "kind": "binary", "label": "liked", "space": "click"},
            {"name": "watch", "kind": "regression", "label": "seconds", "space": "like"},
        ],
    }


def put(path: str, value: Any) -> dict[str, Any]:
    """The section with one value put in, such as at `features.0.name`; a number past the end of a list appends."""
    data: Any = section()
    node, keys = data, path.split(".")
    for key in keys[:-1]:
        node = node[int(key)] if isinstance(node, list) else node[key]
    if isinstance(node, list) and int(keys[-1]) == len(node):
        node.append(value)
    elif isinstance(node, list):
        node[int(keys[-1])] = value
    else:
        node[keys[-1]] = value
    whole: dict[str, Any] = data
    return whole


def make(data: dict[str, Any]) -> Schema:
    return build(Schema, data, "run.yaml")


def test_a_schema_gives_columns_and_tables_in_its_own_order() -> None:
    schema = make(section())
    assert [feature.name for feature in schema.sparse_features] == ["user", "item", "tags", "history"]
    assert schema.dense_names == ["age", "age_is_null", "price"]
    assert list(schema.table_owners()) == ["user", "item", "tags"]
    assert [feature.table_name for feature in schema.sparse_features] == ["user", "item", "tags", "item"]
    assert schema.input_columns() == ["user", "at", "item", "tags", "history", "age", "item_price"]
    assert schema.label_columns() == ["clicked", "liked", "seconds"]


def test_a_shared_table_may_be_owned_by_a_later_feature() -> None:
    data = section()
    data["features"].reverse()
    assert [feature.table_name for feature in make(data).sparse_features] == ["item", "tags", "item", "user"]


NEW_KINDS: list[dict[str, Any]] = [
    {"name": "w", "kind": "weighted_multi_valued", "delimiter": ",", "table": "tags"},
    {"name": "beside", "kind": "weighted_multi_valued", "weights": "shares", "max_length": 9},
    {"name": "past", "kind": "history", "table": "item", "times": "past_at"},
    {"name": "pair", "kind": "crossed", "columns": ["user", "city"], "num_hash_buckets": 100},
    {"name": "hour", "kind": "time_part", "column": "at", "part": "hour"},
    {"name": "day", "kind": "time_part", "column": "at", "part": "day_of_month"},
    {"name": "cost", "kind": "bucketed", "column": "item_price", "num_buckets": 8},
    {"name": "steps", "kind": "bucketed", "boundaries": [0, 1.5]},
    {"name": "freshness", "kind": "numeric", "column": "at", "since": "made_at", "unit": "days"},
]


def test_every_kind_says_its_columns_its_table_and_its_ids() -> None:
    data = section()
    data["features"] += NEW_KINDS
    schema = make(data)
    assert schema.input_columns()[7:] == ["w", "beside", "shares", "past", "past_at", "city", "steps", "made_at"]
    assert schema.columns_of(schema.features[8]) == ["past", "past_at", "at"]
    assert schema.columns_of(schema.features[3]) == ["history"]
    rows = {name: owner.fixed_rows for name, owner in schema.table_owners().items()}
    assert rows == {
        "user": None,
        "item": None,
        "tags": None,
        "beside": None,
        "pair": 102,
        "hour": 26,
        "day": 33,
        "cost": 10,
        "steps": 5,
    }
    assert list(schema.vocabulary_owners()) == ["user", "item", "tags", "beside"]
    ids = schema.max_ids_per_row
    assert (ids["w"], ids["beside"], ids["past"], ids["pair"], ids["hour"], ids["cost"]) == (64, 9, 50, 1, 1, 1)
    assert [feature.name for feature in schema.bucketed_features] == ["cost", "steps"]
    assert schema.dense_names == ["age", "age_is_null", "price", "freshness"]


CROSSED = {"name": "pair", "kind": "crossed", "columns": ["a", "b"], "num_hash_buckets": 5}
WEIGHTED = {"name": "w", "kind": "weighted_multi_valued"}
BUCKETED = {"name": "b", "kind": "bucketed"}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("features.6", {**CROSSED, "columns": ["a"]}, "features.6.columns is ['a']: needs at least 2"),
        ("features.6", {**CROSSED, "columns": ["a", "a"]}, "columns is ['a', 'a']: column 'a' is named twice"),
        ("features.6", {"name": "pair", "kind": "crossed", "columns": ["a", "b"]}, "num_hash_buckets is missing"),
        ("features.6", {**CROSSED, "columns": ["a", "liked"]}, "feature 'pair' reads 'liked', which is the label of"),
        ("features.6", {**WEIGHTED, "weights": "liked"}, "feature 'w' reads 'liked', which is the label of"),
        ("features.6", {**WEIGHTED, "weights": "v", "weight_delimiter": "@"}, "weight_delimiter does not apply"),
        ("features.6", {**WEIGHTED, "delimiter": ":"}, "delimiter and weight_delimiter are both ':'"),
        ("features.3.time_unit", "hours", "time_unit applies to a history with times"),
        ("features.3.times", "liked", "feature 'history' reads 'liked', which is the label of"),
        ("features.6", BUCKETED, "a bucketed feature needs either num_buckets or boundaries"),
        ("features.6", {**BUCKETED, "num_buckets": 3, "boundaries": [1]}, "needs either num_buckets or boundaries"),
        ("features.6", {**BUCKETED, "boundaries": [1, 1]}, "each boundary must be above the one before it"),
        ("features.6", {**BUCKETED, "boundaries": []}, "boundaries is []: needs at least 1"),
        ("features.6", {**BUCKETED, "num_buckets": 1}, "should be greater than or equal to 2"),
        ("features.6", {"name": "t", "kind": "time_part", "part": "minute"}, "features.6.part is 'minute'"),
        ("features.4.unit", "days", "unit applies to an age, which needs since"),
        ("features.4.time_unit", "days", "time_unit applies to an age, which needs since"),
        ("features.4.fill", "median", "features.4.fill"),
        ("features.4", {"name": "n", "kind": "numeric", "log1p": True, "fill": -1}, "fill is -1, below 0, where log1p"),
    ],
)
def test_settings_of_a_kind_that_contradict_each_other_are_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(put(path, value))
    assert message in str(caught.value)


def test_a_table_of_buckets_crosses_or_times_is_not_shared() -> None:
    data = put("features.3.table", "pair")
    data["features"].append(CROSSED)
    with pytest.raises(ConfigError, match="feature 'history' shares table 'pair', whose rows are not values of a colu"):
        make(data)


def test_a_history_with_times_needs_the_rows_own_time() -> None:
    data = put("features.3.times", "seen_at")
    assert make(data).columns_of(make(data).features[3]) == ["history", "seen_at", "at"]
    data["keys"].pop("time")
    with pytest.raises(ConfigError, match=r"feature 'history' has times, which needs keys.time, the row's own time"):
        make(data)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("features.6", {"name": "user", "kind": "numeric"}, "feature 'user' is declared twice"),
        ("tasks.3", {"name": "click", "kind": "binary", "label": "x"}, "task 'click' is declared twice"),
        (
            "features.3.table",
            "itme",
            "feature 'history' shares table 'itme', which no feature owns. Did you mean 'item'?",
        ),
        ("features.3.table", "age", "feature 'history' shares table 'age', which no feature owns"),
        ("features.2.table", "history", "feature 'tags' shares table 'history', which no feature owns"),
        ("features.3.min_count", 2, "features.3: min_count belongs to the feature that owns table 'item'"),
        (
            "features.3.num_hash_buckets",
            9,
            "features.3: num_hash_buckets belongs to the feature that owns table 'item'",
        ),
        ("features.0.num_hash_buckets", 9, "features.0: a hashed feature has no vocabulary"),
        ("features.5.clip", [3, 3], "features.5.clip is [3, 3]: the lower bound must be below the upper bound"),
        ("features.5.clip", [None, None], "features.5.clip is [None, None]: one of the bounds must be a number"),
        ("features.5.clip", [1, 2, 3], "features.5.clip"),
        ("features.5.clip", [0, math.inf], "features.5.clip.1 is inf: should be a finite number"),
        ("features.5.clip", [math.nan, 0], "features.5.clip.0 is nan: should be a finite number"),
        ("features.4.delimiter", ",", "unknown key features.4.delimiter"),
        ("features.2.delimiter", "", "features.2.delimiter is ''"),
        ("features.2.max_length", 0, "features.2.max_length is 0: should be greater than or equal to 1"),
        ("features.0.name", "9user", "features.0.name is '9user'"),
        ("features.0.name", "a b", "features.0.name is 'a b'"),
        ("features.0.name", "a.b", "features.0.name is 'a.b'"),
        ("features.0.name", "user\n", "features.0.name is 'user\\n'"),
        ("features.0.name", "u" * 65, "features.0.name"),
        ("features", [], "features is []: needs at least 1"),
        ("tasks", [], "tasks is []: needs at least 1"),
        ("tasks.1.space", "clck", "task 'like' has space 'clck', which is not a task declared before it. Did you mean"),
        ("tasks.1.space", "like", "task 'like' has space 'like', which is not a task declared before it"),
        ("tasks.1.space", "watch", "task 'like' has space 'watch', which is not a task declared before it"),
        ("tasks.0.space", "like", "task 'click' has space 'like', which is not a task declared before it"),
        ("tasks.0.kind", "regression", "task 'like' has space 'click', which is not a binary task"),
        ("tasks.2.positive", 1, "tasks.2: positive applies to binary tasks only"),
        ("tasks.2.kind", "multiclass", "tasks.2: a multiclass task needs classes"),
        ("tasks.2.classes", {"a": 1, "b": 2}, "tasks.2: classes apply to multiclass tasks only"),
        ("tasks.3", {**FEELING, "classes": {"warm": 2}}, "tasks.3.classes is {'warm': 2}: needs at least 2"),
        ("tasks.3", {**FEELING, "classes": {"a b": 2, "c": 3}}, "tasks.3.classes.a b is 'a b'"),
        ("tasks.3", {**FEELING, "classes": {"a": 2, "b": None}}, "tasks.3.classes.b is None"),
        ("tasks.3", {**FEELING, "classes": {"a": 2, "b": 0.5}}, "tasks.3.classes.b is 0.5"),
        ("tasks.3", {**FEELING, "classes": ["a", "b"]}, "tasks.3.classes is ['a', 'b']: should be a section"),
        ("tasks.1", {**FEELING, "name": "like"}, "task 'watch' has space 'like', which is not a binary task"),
        ("tasks.2.name", "joint_like", "tasks 'like' and 'joint_like' would both give an output 'joint_like'"),
        (
            "tasks.3",
            {**FEELING, "name": "joint", "classes": {"like": 1, "other": 2}},
            "tasks 'like' and 'joint' would both give an output 'joint_like'",
        ),
        (
            "tasks.3",
            {**FEELING, "name": "joint_like"},
            "tasks 'like' and 'joint_like' would both give an output 'joint_like'",
        ),
        ("weight", "liked", "weight 'liked' is the label of task 'like', whose rows with label 0 would not count"),
        ("weight", "", "weight is ''"),
        ("features.0.column", "liked", "feature 'user' reads 'liked', which is the label of task 'like'"),
        ("tasks.0.label", "age", "feature 'age' reads 'age', which is the label of task 'click'"),
        ("tasks.0.label", "item_price", "feature 'price' reads 'item_price', which is the label of task 'click'"),
    ],
)
def test_a_schema_that_contradicts_itself_is_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(put(path, value))
    assert str(caught.value).startswith("run.yaml: ")
    assert message in str(caught.value)
    assert "?." not in str(caught.value)


def test_a_space_that_is_declared_later_is_named_as_such() -> None:
    data = section()
    data["tasks"].reverse()
    with pytest.raises(ConfigError, match="task 'watch' has space 'like', which is not a task declared before it"):
        make(data)


def test_the_outputs_of_a_task_are_those_of_its_model() -> None:
    data = section()
    data["tasks"] += [FEELING, {"name": "joint_watch", "kind": "watch_time", "label": "stay", "space": "like"}]
    schema = make(data)
    tasks = [Task(task.name, task.kind, space=task.space, classes=tuple(task.classes or ())) for task in schema.tasks]
    names = [name for task in schema.tasks for name in task.output_names]
    assert sorted(names) == sorted(output_names(tasks))
    assert schema.tasks[3].output_names == ["feeling_warm", "feeling_cold"]


def test_the_weight_of_a_row_may_be_a_feature_too() -> None:
    assert make(put("weight", "item_price")).weight == "item_price"


# --- the fingerprint

CHANGES = [
    ("features.0.min_count", 3),
    ("features.0.column", "user_id"),
    ("features.0.kind", "multi_valued"),
    ("features.0.max_size", 100),
    ("features.1.num_hash_buckets", 100),
    ("features.2.delimiter", ";"),
    ("features.2.max_length", 10),
    ("features.2.name", "labels"),
    ("features.4.null_indicator", False),
    ("features.4.standardise", False),
    ("features.4.log1p", True),
    ("features.4.fill", "mean"),
    ("features.4.fill", 0),
    ("features.4.since", "born"),
    ("features.4", {"name": "age", "kind": "numeric", "null_indicator": True, "since": "born", "unit": "days"}),
    ("features.3.times", "seen_at"),
    ("features.6", {"name": "hour", "kind": "time_part", "part": "hour"}),
    ("features.6", {"name": "hour", "kind": "time_part", "part": "hour", "utc_offset_hours": 8}),
    ("features.6", {"name": "b", "kind": "bucketed", "num_buckets": 3}),
    ("features.6", {"name": "b", "kind": "bucketed", "boundaries": [1, 2]}),
    ("features.5.clip", [0, 11]),
    ("features.6", {"name": "city", "kind": "categorical"}),
    ("tasks.0.label", "pressed"),
    ("tasks.0.positive", "yes"),
    ("tasks.0.positive", 1),
    ("tasks.0.positive", "1"),
    ("tasks.0.positive", True),
    ("tasks.2.kind", "watch_time"),
    ("tasks.3", FEELING),
    ("tasks.3", {**FEELING, "classes": {"cold": "two", "warm": 2}}),
    ("tasks.3", {**FEELING, "classes": {"warm": "2", "cold": "two"}}),
    ("weight", "item_price"),
    ("tasks.2.space", "click"),
    ("tasks.2.kind", "binary"),
    ("tasks.2.name", "stay"),
    ("keys.user", "user_id"),
    ("keys.row", "row"),
]


def test_each_change_of_meaning_changes_the_fingerprint() -> None:
    fingerprints = [make(put(path, value)).fingerprint() for path, value in CHANGES]
    assert len({make(section()).fingerprint(), *fingerprints}) == len(CHANGES) + 1


def test_the_fingerprint_of_a_schema_is_what_it_was_when_earlier_datasets_were_made() -> None:
    assert make(section()).fingerprint() == "1754216d45d01f1d364bddf7faef7f2c6cd66d7a6645702a3f40dab66d35f384"


@pytest.mark.parametrize("kind", ["features", "tasks"])
def test_another_order_changes_the_fingerprint(kind: str) -> None:
    data = section()
    for task in data["tasks"]:
        task.pop("space", None)
    before = make(data)
    data[kind].reverse()
    after = make(data)
    assert before.fingerprint() != after.fingerprint()
    assert after.differences(before) == [f"the {kind} are in another order"]


def test_how_a_schema_is_written_does_not_change_the_fingerprint() -> None:
    schema = make(section())
    backwards = {
        key: value if isinstance(value, dict) else [dict(reversed(entry.items())) for entry in value]
        for key, value in reversed(section().items())
    }
    assert make(backwards).fingerprint() == schema.fingerprint()
    # With every default written out, as in a resolved configuration.
    assert make(schema.model_dump(mode="json")).fingerprint() == schema.fingerprint()
    assert make(put("features.5.clip", [0.0, 10])).fingerprint() == schema.fingerprint()


# --- differences


@pytest.mark.parametrize(
    ("path", "value", "phrase"),
    [
        ("features.0.min_count", 3, "feature 'user': min_count was 2, is 3"),
        ("features.3.table", None, "feature 'history': table was 'item', is None"),
        ("features.4.fill", 3, "feature 'age': fill was None, is 3.0"),
        ("features.5.clip", None, "feature 'price': clip was (0.0, 10.0), is None"),
        ("features.6", {"name": "city", "kind": "categorical"}, "feature 'city' is new"),
        ("tasks.2.space", "click", "task 'watch': space was 'like', is 'click'"),
        ("tasks.0.positive", "yes", "task 'click': positive was None, is 'yes'"),
        ("keys.user", "user_id", "the key columns differ"),
        ("weight", "share", "weight was None, is 'share'"),
    ],
)
def test_a_difference_is_one_phrase(path: str, value: Any, phrase: str) -> None:
    before, after = make(section()), make(put(path, value))
    assert after.differences(before) == [phrase]
    assert before.differences(before) == []


def test_another_order_of_classes_is_a_difference() -> None:
    before = make(put("tasks.3", FEELING))
    after = make(put("tasks.3", {**FEELING, "classes": {"cold": "two", "warm": 2}}))
    assert after.differences(before) == [
        "task 'feeling': classes was {'warm': 2, 'cold': 'two'}, is {'cold': 'two', 'warm': 2}"
    ]


def test_a_feature_that_is_gone_is_named() -> None:
    data = section()
    del data["features"][4]
    assert make(data).differences(make(section())) == ["feature 'age' is gone"]


def test_a_renamed_feature_is_gone_and_new() -> None:
    assert make(put("features.2.name", "labels")).differences(make(section())) == [
        "feature 'labels' is new",
        "feature 'tags' is gone",
    ]


def test_another_kind_names_each_setting_that_differs() -> None:
    assert make(put("features.1.kind", "history")).differences(make(section())) == [
        "feature 'item': kind was 'categorical', is 'history'",
        "feature 'item': max_length was None, is 50",
    ]


@given(st.sampled_from(CHANGES), st.sampled_from(CHANGES))
def test_there_is_a_difference_exactly_when_the_fingerprints_differ(
    first: tuple[str, Any], second: tuple[str, Any]
) -> None:
    before, after = make(put(*first)), make(put(*second))
    assert bool(after.differences(before)) == (after.fingerprint() != before.fingerprint())
