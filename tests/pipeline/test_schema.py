"""The columns, tables and outputs of a schema, and the contradictions that it refuses."""

import math
from typing import Any

import pytest
from small_schema import FEELING, make_schema, put, section

from models.tasks import Task, output_names
from pipeline.errors import ConfigError


def test_a_schema_gives_columns_and_tables_in_its_own_order() -> None:
    schema = make_schema(section())
    assert [feature.name for feature in schema.sparse_features] == ["user", "item", "tags", "history"]
    assert schema.dense_names == ["age", "age_is_null", "price"]
    assert list(schema.table_owners()) == ["user", "item", "tags"]
    assert [feature.table_name for feature in schema.sparse_features] == ["user", "item", "tags", "item"]
    assert schema.input_columns() == ["user", "at", "item", "tags", "history", "age", "item_price"]
    assert schema.label_columns() == ["clicked", "liked", "seconds"]


def test_a_shared_table_may_be_owned_by_a_later_feature() -> None:
    data = section()
    data["features"].reverse()
    assert [feature.table_name for feature in make_schema(data).sparse_features] == ["item", "tags", "item", "user"]


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
        make_schema(put(path, value))
    assert str(caught.value).startswith("run.yaml: ")
    assert message in str(caught.value)
    assert "?." not in str(caught.value)


def test_a_space_that_is_declared_later_is_named_as_such() -> None:
    data = section()
    data["tasks"].reverse()
    with pytest.raises(ConfigError, match="task 'watch' has space 'like', which is not a task declared before it"):
        make_schema(data)


def test_the_outputs_of_a_task_are_those_of_its_model() -> None:
    data = section()
    data["tasks"] += [FEELING, {"name": "joint_watch", "kind": "watch_time", "label": "stay", "space": "like"}]
    schema = make_schema(data)
    tasks = [Task(task.name, task.kind, space=task.space, classes=tuple(task.classes or ())) for task in schema.tasks]
    names = [name for task in schema.tasks for name in task.output_names]
    assert sorted(names) == sorted(output_names(tasks))
    assert schema.tasks[3].output_names == ["feeling_warm", "feeling_cold"]


def test_the_weight_of_a_row_may_be_a_feature_too() -> None:
    assert make_schema(put("weight", "item_price")).weight == "item_price"
