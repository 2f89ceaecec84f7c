"""Labels: what is read, what is refused, and on which rows a task is defined."""

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import ConfigError, DataError
from pipeline.preprocess.columns.labels import (
    check_classes,
    defined_rows,
    impossible_rows,
    judge_labels,
    read_labels,
    read_weights,
    to_array,
)
from pipeline.schema import Schema

NAN = float("nan")


def schema(*tasks: dict[str, Any]) -> Schema:
    return Schema.model_validate({"features": [{"name": "x", "kind": "numeric"}], "tasks": tasks})


def read(values: Any, **task: Any) -> list[float | None]:
    wanted = schema({"name": "click", "kind": "binary", "label": "y", **task})
    labels = read_labels(wanted, pa.table({"y": values}), "log.csv", first_row=10)
    return [None if np.isnan(label) else label for label in labels["click"].tolist()]


@pytest.mark.parametrize(
    "values", [[1, 0, None], [1.0, 0.0, None], [True, False, None], ["1", "0", None], ["1.0", "0.0", None]]
)
def test_binary_labels_are_0_and_1_in_every_type(values: list[Any]) -> None:
    assert read(values) == [1.0, 0.0, None]


@pytest.mark.parametrize("bad", [2, -1, 0.5, NAN, "yes", ""])
def test_any_other_binary_label_is_named_with_its_row(bad: Any) -> None:
    values = pa.array([type(bad)(1), bad])
    shown = repr(bad) if isinstance(bad, str) else str(bad)
    with pytest.raises(
        DataError, match=f"task 'click': label {shown} in log.csv, row 12: a binary label is 0, 1 or null"
    ):
        read(values)


@pytest.mark.parametrize(
    ("values", "positive"),
    [
        (["no", "yes", None], "yes"),
        ([3, 7, None], 7),
        ([3.0, 7.0, None], 7),
        ([False, True, None], True),
        (["0", "1e30", None], "1e30"),
        ([0, 7, None], "7.0"),
        (["7", str(10**30), None], 10**30),
    ],
)
def test_positive_names_the_value_that_counts_as_1(values: list[Any], positive: Any) -> None:
    assert read(values, positive=positive) == [0.0, 1.0, None]


def test_a_label_that_is_a_list_is_refused() -> None:
    with pytest.raises(DataError, match=r"the label of task 'click' in log\.csv has type list"):
        read([[1], [0]])


def test_regression_labels_are_finite_numbers_or_null() -> None:
    assert read(["1.5", "-2", None], kind="regression") == [1.5, -2.0, None]
    for bad in (NAN, float("inf"), 1e300):
        with pytest.raises(
            DataError, match=r"task 'click': label .* in log\.csv, row 11: a regression label is a finite"
        ):
            read([bad], kind="regression")
    with pytest.raises(DataError, match=r"task 'click': label 'long' in log\.csv, row 12: a regression label is a"):
        read(["1", "long"], kind="regression")


LEVELS = {"kind": "multiclass", "classes": {"warm": 2, "cold": "c", "on": True}}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2, None, 2], [0.0, None, 0.0]),
        ([2.0, None, 2.0], [0.0, None, 0.0]),
        (["c", "2", None, "2.0", "TRUE", "c"], [1.0, 0.0, None, 0.0, 2.0, 1.0]),
        ([True, None], [2.0, None]),
        (pa.array(["c", None, "2"]).dictionary_encode(), [1.0, None, 0.0]),
        (pa.nulls(2), [None, None]),
    ],
)
def test_a_multiclass_label_is_the_place_of_its_class(values: Any, expected: list[float | None]) -> None:
    assert read(values, **LEVELS) == expected


@pytest.mark.parametrize("bad", [1, 0.5, NAN, "warm", "", False])
def test_a_value_of_no_class_is_named_with_its_row_and_the_classes(bad: Any) -> None:
    values = pa.array([None, bad])
    shown = repr(bad) if isinstance(bad, str) else str(bad)
    with pytest.raises(DataError) as caught:
        read(values, **LEVELS)
    assert str(caught.value) == (
        f"task 'click': label {shown} in log.csv, row 12: a multiclass label is the value of one of its classes "
        "(warm: 2, cold: c, on: True) or null. Add the value to `classes`, or correct the column."
    )


@pytest.mark.parametrize(
    ("values", "text"), [((1, 1), "1"), ((1, "1.00"), "1"), ((True, "True"), "true"), (("-0.0", 0), "0")]
)
def test_two_classes_with_the_same_value_are_refused(values: tuple[Any, Any], text: str) -> None:
    classes = {"a": values[0], "b": "other", "c": values[1]}
    wanted = schema({"name": "mood", "kind": "multiclass", "label": "y", "classes": classes})
    with pytest.raises(ConfigError, match=f"task 'mood': classes 'a' and 'c' have the same label value '{text}'"):
        check_classes(wanted)
    check_classes(schema({"name": "mood", "kind": "multiclass", "label": "y", "classes": {"a": 1, "b": True}}))


def test_watch_times_are_finite_numbers_of_at_least_0_or_null() -> None:
    assert read(["1.5", "0", None, "-0.0"], kind="watch_time") == [1.5, 0.0, None, 0.0]
    for bad in (NAN, float("inf"), 1e300, -0.5):
        with pytest.raises(
            DataError,
            match=r"task 'click': label .* in log\.csv, row 12: a watch time is a finite number of at least 0",
        ):
            read([1.0, bad, -7.0], kind="watch_time")


def test_weights_are_finite_numbers_of_at_least_0() -> None:
    weights = read_weights("w", pa.table({"w": ["0", "2.5", "1e-60"]}), "log.csv")
    assert weights.tolist() == [0.0, 2.5, 0.0]
    assert weights.dtype == np.float32
    for bad, shown in ((None, "null"), (NAN, "nan"), (float("inf"), "inf"), (-1.0, r"-1\.0"), (1e300, "1e")):
        with pytest.raises(
            DataError, match=rf"weight {shown}.* in log\.csv, row 12: .*Correct.*give 1 where a row has"
        ):
            read_weights("w", pa.table({"w": [1.0, bad]}), "log.csv", first_row=10)
    with pytest.raises(DataError, match=r"weight 'much' in log\.csv, row 1: the weight of a row is a finite number"):
        read_weights("w", pa.table({"w": ["much"]}), "log.csv")


def test_a_task_is_defined_where_its_space_is_1_all_the_way_up() -> None:
    wanted = schema(
        {"name": "click", "kind": "binary", "label": "c"},
        {"name": "cart", "kind": "binary", "label": "k", "space": "click"},
        {"name": "spend", "kind": "regression", "label": "s", "space": "cart"},
    )
    rows = {"c": [0, 1, 1, 1, None, 1], "k": [1, 0, 1, 1, 1, None], "s": [9.0, 9.0, 9.0, None, 9.0, 9.0]}
    labels = read_labels(wanted, pa.table(rows), "log.csv")
    defined = {name: np.flatnonzero(mask).tolist() for name, mask in defined_rows(wanted, labels).items()}
    assert defined == {"click": [0, 1, 2, 3, 5], "cart": [1, 2, 3], "spend": [2]}


def test_the_labels_column_has_nulls_inside_its_lists() -> None:
    array = to_array({"a": np.array([1.0, NAN]), "b": np.array([NAN, 0.5])})
    assert array.type == pa.list_(pa.float32(), 2)
    assert array.to_pylist() == [[1.0, None], [None, 0.5]]
    assert array.null_count == 0


@pytest.mark.parametrize(
    ("task", "values", "expected"),
    [
        ({"kind": "binary"}, [1, 2, None, 0], [1.0, None, None, 0.0]),
        (LEVELS, ["c", "d", None, "2"], [1.0, None, None, 0.0]),
        ({"kind": "regression"}, ["1", "long", None, "-2"], [1.0, None, None, -2.0]),
        ({"kind": "watch_time"}, [1.0, -3.0, None, 0.0], [1.0, None, None, 0.0]),
    ],
)
def test_a_wrong_label_is_marked_and_is_not_null(
    task: dict[str, Any], values: list[Any], expected: list[float | None]
) -> None:
    (wanted,) = schema({"name": "click", "label": "y", **task}).tasks
    judged = judge_labels(wanted, pa.table({"y": values}), "log.csv")
    assert [None if np.isnan(label) else label for label in judged.values.tolist()] == expected
    assert judged.is_wrong.tolist() == [False, True, False, False]
    with pytest.raises(DataError, match=r"log\.csv, row 12: " + re.escape(judged.rule)):
        read(values, **task)


def test_a_conversion_is_impossible_where_the_nearest_label_known_above_it_is_0() -> None:
    wanted = schema(
        {"name": "click", "kind": "binary", "label": "c"},
        {"name": "cart", "kind": "binary", "label": "k", "space": "click"},
        {"name": "buy", "kind": "binary", "label": "b", "space": "cart"},
        {"name": "spend", "kind": "regression", "label": "s", "space": "cart"},
    )
    one = np.ones(6)
    labels = {
        "click": np.array([0, 0, 1, NAN, 0, 1]),
        "cart": np.array([1, NAN, NAN, NAN, 0, 0]),
        "buy": one,
        "spend": one,
    }
    found = {name: np.flatnonzero(rows).tolist() for name, rows in impossible_rows(wanted, labels).items()}
    assert found == {"cart": [0], "buy": [1, 4, 5]}
