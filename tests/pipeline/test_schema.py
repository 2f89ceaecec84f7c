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
