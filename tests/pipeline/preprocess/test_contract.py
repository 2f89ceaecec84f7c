"""The data contract finds exactly the rows that break it, and says why and where."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from small_contracts import NAN, SCHEMA, check, make_contract, make_table, reasons

from pipeline.errors import ConfigError, DataError
from pipeline.preprocess.columns.labels import read_labels, read_weights
from pipeline.preprocess.config import TimeSplit
from pipeline.preprocess.features.kinds import read_dense
from pipeline.preprocess.split import assign_splits
from pipeline.schema import Schema

COLUMN_RULES = [
    ({"nullable": False}, [1.0, None, NAN, 2.0, 3.0, 4.0], [1, 2], "is null"),
    ({"range": [0, None]}, [0.0, -0.5, None, NAN, float("-inf"), 9], [1, 4], "is below 0"),
    ({"range": [None, 2.5]}, [2.5, 3.0, None, NAN, float("inf"), 1e300], [1, 4, 5], "is above 2.5"),
    ({"range": [0, 9]}, ["1", " 2 ", "many", "3", "4,5", None], [2, 4], "is not a number"),
    ({"range": [0, 9]}, ["1", " 2 ", "inf", "3", "1e300", None], [2, 4], "is above 9"),
    ({"type": "number"}, ["1", "-2.5e3", "1,5", "", None, "0x1"], [2, 3, 5], "is not a number"),
    ({"type": "integer"}, ["1", "2.0", "2.5", "1e3", None, "-7"], [2, 3], "is not an integer"),
    ({"type": "boolean"}, ["true", "FALSE", "1", "0", "yes", None], [4], "is not a boolean"),
    (
        {"type": "time"},
        ["2025-01-02", "2025-01-02 03:04:05", "2025-01-02T03:04:05Z", "2025-13-01", "noon", None],
        [3, 4],
        "is not a time",
    ),
    ({"allowed": ["york", "bath"]}, ["york", "York", None, "bath", "", "bath"], [1, 4], "is none of york, bath"),
    ({"allowed": [1, 2]}, [1.0, 2.0, 3.0, NAN, None, 1.5], [2, 5], "is none of 1, 2"),
    ({"allowed": ["a", "b"]}, [["a"], [], None, ["a", "c"], ["b", None], ["d"]], [3, 5], "is none of a, b"),
    ({"allowed": list(range(10))}, [0, 9, 10, 1, 2, 3], [2], "is none of 0, 1, 2, 3, 4, 5, 6, 7 and 2 more"),
    ({"type": "list", "nullable": False}, [["a"], [], None, ["a"], [None], ["d"]], [2], "is null"),
    ({"type": "text"}, ["a", "1", None, "", "nan", "b"], [], ""),
]


@pytest.mark.parametrize(("rule", "values", "rows", "reason"), COLUMN_RULES)
def test_each_rule_of_a_column_finds_its_rows(
    rule: dict[str, Any], values: list[Any], rows: list[int], reason: str
) -> None:
    config, expected = make_contract({"v": rule}, bad_rows="quarantine"), dict.fromkeys(rows, f"column 'v' {reason}")
    assert reasons(make_table(v=values), config) == expected
    # Chunks and dictionaries are only other ways to write the same column.
    halves = pa.chunked_array([pa.array(values)[:4], pa.array(values)[4:]])
    assert reasons(make_table(v=halves), config) == expected
    if isinstance(values[0], str):
        assert reasons(make_table(v=pa.array(values).dictionary_encode()), config) == expected


def test_a_row_that_breaks_several_rules_has_the_first_reason() -> None:
    columns = {"v": {"nullable": False, "range": [0, 9]}, "w": {"allowed": ["a"]}}
    table = make_table(v=[None, 10, -1, 5, 5, 5], w=["b", "b", "a", "b", "a", "a"], click=[7] * 5 + [1])
    assert list(reasons(table, make_contract(columns, bad_rows="quarantine")).values()) == [
        "column 'v' is null",
        "column 'v' is above 9",
        "column 'v' is below 0",
        "column 'w' is none of a",
        "task 'click': a binary label is 0, 1 or null",
    ]


def test_by_default_the_first_bad_row_is_an_error_that_names_it() -> None:
    config = make_contract({"v": {"range": [0, 9]}, "w": {"nullable": False}})
    table = make_table(v=[1, 2, 3, 99, -1, 2], w=[1, 1, None, 1, 1, 1])
    with pytest.raises(DataError) as caught:
        check(table, config)
    assert str(caught.value) == (
        "column 'w' is null: null in log.csv, row 13. Correct the rows, change preprocess.contract.columns.w, or set "
        "preprocess.contract.bad_rows: quarantine."
    )
    assert not check(table.slice(0, 2), config).is_bad.any()


SIX = list(range(6))
IS_TEXT, IS_NEGATIVE = "feature 'x' is not a number", "feature 'x' is below 0, where log1p has no use"
NO_LABEL, NO_WEIGHT = (
    "task 'click': a binary label is 0, 1 or null",
    "the weight of a row is a finite number of at least 0",
)
INPUT_RULES = [
    ({}, {"x": ["1", "many", None, "nan", "1e300", "-1"]}, {1: IS_TEXT}),
    ({"log1p": True}, {"x": ["1", "many", None, "-0.5", "-inf", "-1"]}, {1: IS_TEXT, 3: IS_NEGATIVE, 5: IS_NEGATIVE}),
    ({"log1p": True, "clip": [0, 9]}, {"x": [1.0, -5.0, None, 1e9, 0.0, -1.0]}, {}),
    ({}, {"t": [1, None, 3, 4, 5, 6]}, {1: "the split column 't' is null"}),
    ({}, {"w": [1.0, None, -1.0, NAN, 0.0, 6.0]}, {1: NO_WEIGHT, 2: NO_WEIGHT, 3: NO_WEIGHT}),
    ({}, {"click": [1, 0, 2, -1, None, 1]}, {2: NO_LABEL, 3: NO_LABEL}),
    ({}, {"click": [1.0, NAN, 1.0, 1.0, None, 0.5]}, {1: NO_LABEL, 5: NO_LABEL}),
]


@pytest.mark.parametrize(("feature", "columns", "expected"), INPUT_RULES)
def test_quarantine_takes_every_row_that_the_readers_would_refuse(
    feature: dict[str, Any], columns: dict[str, Any], expected: dict[int, str]
) -> None:
    numeric = {"name": "x", "kind": "numeric", **feature}
    schema = Schema.model_validate(SCHEMA.model_dump() | {"features": [numeric], "weight": "w"})
    split = TimeSplit(kind="time", column="t", validation_from=3, test_from=5)
    table = make_table(**{"t": SIX, "w": [1.0] * 6, **columns})
    config = make_contract(bad_rows="quarantine")
    assert reasons(table, config, schema=schema, split=split) == expected

    def read(rows: pa.Table) -> None:
        assign_splits(rows, split, 0, len(rows))
        read_labels(schema, rows, "log.csv")
        read_weights("w", rows, "log.csv")
        read_dense(rows, schema.numeric_features[0], "log.csv", 0)

    read(table.filter(pa.array(~check(table, config, schema, split).is_bad)))
    if expected:
        with pytest.raises(DataError):
            read(table)


@pytest.mark.parametrize(
    ("kind", "values", "wrong"),
    [
        ("regression", ["1", "long", None, "nan", "-2", "1e300"], [1, 3, 5]),
        ("watch_time", [1.0, -1.0, None, NAN, 0.0, float("inf")], [1, 3, 5]),
    ],
)
def test_numbers_that_are_no_label_are_quarantined(kind: str, values: list[Any], wrong: list[int]) -> None:
    task = {"name": "stay", "kind": kind, "label": "stay"}
    schema = Schema.model_validate(SCHEMA.model_dump() | {"tasks": [task]})
    table = make_table(stay=values)
    checked = check(table, make_contract(bad_rows="quarantine"), schema)
    assert np.flatnonzero(checked.is_bad).tolist() == wrong
    good = table.filter(pa.array(~checked.is_bad))
    # What is left is what the strict reader reads.
    np.testing.assert_array_equal(checked.labels["stay"][~checked.is_bad], read_labels(schema, good, "log.csv")["stay"])


IMPOSSIBLE = {
    "click": [1, 0, None, 0, None, 0],
    "cart": [1, 0, 1, None, None, 1],
    "buy": [1, 0, 1, 1, 1, 0],
}


def test_a_conversion_outside_its_space_is_an_error_by_default() -> None:
    with pytest.raises(DataError) as caught:
        check(make_table(**IMPOSSIBLE), make_contract())
    assert str(caught.value) == (
        "task 'buy' has label 1 outside its space 'cart', whose label is 0: 1 in log.csv, row 14. Correct the labels, "
        "remove the `space` of 'buy', or set preprocess.contract.labels to quarantine or ignore."
    )


def test_a_conversion_outside_its_space_is_quarantined_or_left_as_configured() -> None:
    found = reasons(make_table(**IMPOSSIBLE), make_contract(labels="quarantine"))
    assert found == {
        # The cart of row 3 is not known, and its click is 0.
        3: "task 'buy' has label 1 outside its space 'cart', whose label is 0",
        5: "task 'cart' has label 1 outside its space 'click', whose label is 0",
    }
    assert reasons(make_table(**IMPOSSIBLE), make_contract(labels="ignore")) == {}


def test_a_label_of_the_wrong_kind_of_value_still_stops_when_only_impossible_labels_are_quarantined() -> None:
    with pytest.raises(DataError, match=r"task 'click': label 2 in log\.csv, row 11: a binary label is 0, 1 or null"):
        check(make_table(click=[2] * 6), make_contract(labels="quarantine"))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"range": [3, 2]}, "the lower end of range is above the upper end"),
        ({"type": "text", "range": [0, 1]}, "range applies to numbers, and the type is text"),
        ({"range": [0, NAN]}, "should be a finite number"),
        ({"allowed": []}, "needs at least 1"),
        ({"type": "int"}, "should be 'integer'"),
    ],
)
def test_a_contract_that_makes_no_sense_is_refused(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_contract({"v": rule})
