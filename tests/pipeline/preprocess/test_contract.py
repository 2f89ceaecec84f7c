"""The data contract finds exactly the rows that break it, says why and where, and quarantines up to a limit."""

from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import build
from pipeline.errors import ConfigError, DataError
from pipeline.preprocess.checks.contract import CheckedRows, check_rows, check_types, describe_added
from pipeline.preprocess.checks.quarantine import Quarantine, quarantine_table
from pipeline.preprocess.columns.labels import read_labels, read_weights
from pipeline.preprocess.config import ContractConfig, OrderSplit, TimeSplit
from pipeline.preprocess.features.kinds import read_dense
from pipeline.preprocess.raw_files.sources import JOINED_FROM
from pipeline.preprocess.split import assign_splits
from pipeline.schema import Schema

NAN = float("nan")
ORDER = OrderSplit(kind="order")
SCHEMA = Schema.model_validate(
    {
        "features": [{"name": "x", "kind": "numeric"}],
        "tasks": [
            {"name": "click", "kind": "binary", "label": "click"},
            {"name": "cart", "kind": "binary", "label": "cart", "space": "click"},
            {"name": "buy", "kind": "binary", "label": "buy", "space": "cart"},
        ],
    }
)


def make_config(columns: dict[str, Any] | None = None, **section: Any) -> ContractConfig:
    return build(ContractConfig, {"columns": columns or {}, **section}, "test.yaml")


def make_table(**columns: Any) -> pa.Table:
    """Six rows of good inputs and labels, with the given columns in their place."""
    zeros = [0] * 6
    return pa.table({"x": [1.0] * 6, "click": [1] * 6, "cart": zeros, "buy": zeros} | columns)


def check(table: pa.Table, config: ContractConfig, schema: Schema = SCHEMA, split: Any = ORDER) -> CheckedRows:
    return check_rows(config, schema, split, table, "log.csv", first_row=10)


def reasons(table: pa.Table, config: ContractConfig, **given: Any) -> dict[int, str]:
    """The reason of each bad row, by the row's place."""
    checked = check(table, config, **given)
    return {row: checked.rules[checked.codes[row]].reason for row in np.flatnonzero(checked.is_bad).tolist()}


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
    config, expected = make_config({"v": rule}, bad_rows="quarantine"), dict.fromkeys(rows, f"column 'v' {reason}")
    assert reasons(make_table(v=values), config) == expected
    # Chunks and dictionaries are only other ways to write the same column.
    halves = pa.chunked_array([pa.array(values)[:4], pa.array(values)[4:]])
    assert reasons(make_table(v=halves), config) == expected
    if isinstance(values[0], str):
        assert reasons(make_table(v=pa.array(values).dictionary_encode()), config) == expected


def test_a_row_that_breaks_several_rules_has_the_first_reason() -> None:
    columns = {"v": {"nullable": False, "range": [0, 9]}, "w": {"allowed": ["a"]}}
    table = make_table(v=[None, 10, -1, 5, 5, 5], w=["b", "b", "a", "b", "a", "a"], click=[7] * 5 + [1])
    assert list(reasons(table, make_config(columns, bad_rows="quarantine")).values()) == [
        "column 'v' is null",
        "column 'v' is above 9",
        "column 'v' is below 0",
        "column 'w' is none of a",
        "task 'click': a binary label is 0, 1 or null",
    ]


def test_by_default_the_first_bad_row_is_an_error_that_names_it() -> None:
    config = make_config({"v": {"range": [0, 9]}, "w": {"nullable": False}})
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
    config = make_config(bad_rows="quarantine")
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
    checked = check(table, make_config(bad_rows="quarantine"), schema)
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
        check(make_table(**IMPOSSIBLE), make_config())
    assert str(caught.value) == (
        "task 'buy' has label 1 outside its space 'cart', whose label is 0: 1 in log.csv, row 14. Correct the labels, "
        "remove the `space` of 'buy', or set preprocess.contract.labels to quarantine or ignore."
    )


def test_a_conversion_outside_its_space_is_quarantined_or_left_as_configured() -> None:
    found = reasons(make_table(**IMPOSSIBLE), make_config(labels="quarantine"))
    assert found == {
        # The cart of row 3 is not known, and its click is 0.
        3: "task 'buy' has label 1 outside its space 'cart', whose label is 0",
        5: "task 'cart' has label 1 outside its space 'click', whose label is 0",
    }
    assert reasons(make_table(**IMPOSSIBLE), make_config(labels="ignore")) == {}


def test_a_label_of_the_wrong_kind_of_value_still_stops_when_only_impossible_labels_are_quarantined() -> None:
    with pytest.raises(DataError, match=r"task 'click': label 2 in log\.csv, row 11: a binary label is 0, 1 or null"):
        check(make_table(click=[2] * 6), make_config(labels="quarantine"))


TYPES = {
    "integer": pa.array([1], pa.int16()),
    "number": pa.array([1.5], pa.float32()),
    "text": pa.array(["a"], pa.large_string()),
    "boolean": pa.array([True]),
    "time": pa.array([datetime(2025, 1, 1)]),
    "list": pa.array([["a"]]),
}


@pytest.mark.parametrize("wanted", TYPES)
@pytest.mark.parametrize("found", TYPES)
def test_a_column_of_another_type_is_an_error_with_column_and_file(wanted: str, found: str) -> None:
    columns = make_config({"v": {"type": wanted}}).columns
    table = pa.table({"v": TYPES[found]})
    if wanted == found or (wanted, found) == ("number", "integer"):
        check_types(columns, table, "log.parquet", ())
        return
    with pytest.raises(DataError) as caught:
        check_types(columns, table, "log.parquet", ())
    assert str(caught.value) == (
        f"column 'v' of log.parquet has type {TYPES[found].type}, and the contract says {wanted}. "
        f"Write the column as {wanted}, or change preprocess.contract.columns.v.type."
    )


def test_texts_of_a_text_file_may_be_of_any_type_and_so_may_nulls() -> None:
    columns = make_config({"v": {"type": "integer"}}).columns
    texts = pa.table({"v": ["1"]})
    check_types(columns, texts, "log.csv", {"log.csv"})
    check_types(columns, pa.table({"v": pa.nulls(1)}), "log.parquet", ())
    with pytest.raises(DataError, match=r"column 'v' of log\.parquet has type string"):
        check_types(columns, texts, "log.parquet", {"log.csv"})
    joined = pa.table(texts.columns, schema=pa.schema([texts.schema.field("v").with_metadata({JOINED_FROM: "users"})]))
    with pytest.raises(DataError, match=r"column 'v' of users has type string, and the contract says integer"):
        check_types(columns, joined, "log.csv", {"log.csv"})


def test_a_column_that_is_gone_is_an_error_and_the_order_of_columns_is_free() -> None:
    columns = make_config({"price": {"type": "number"}, "city": {"type": "text"}}).columns
    table = pa.table({"city": ["york"], "price": [1.0]})
    check_types(columns, table, "log.parquet", ())
    check_types(columns, table.select(["price", "city"]), "log.parquet", ())
    with pytest.raises(DataError) as caught:
        check_types(columns, table.rename_columns(["city", "prices"]), "log.parquet", ())
    assert str(caught.value) == (
        "column 'price', which preprocess.contract lists, is not in log.parquet. Did you mean 'prices'."
    )


def test_an_added_column_is_one_warning_however_many_files_have_it() -> None:
    files = {f"log-{place:03d}.csv": ["a", "b"] if place else ["a", "b", "c"] for place in range(200)}
    assert describe_added(["a"], files) == [
        "column 'b' of log-000.csv and 199 more files is not in the contract",
        "column 'c' of log-000.csv is not in the contract",
    ]
    assert describe_added([], files) == []


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
        make_config({"v": rule})


def test_the_quarantine_holds_the_rows_as_they_were_with_reason_file_and_row() -> None:
    table = make_table(x=["1", "many", "3", "4", "5", "?"], row=["a", "b", "c", "d", "e", "f"])
    joined = pa.field("age", pa.int64(), metadata={JOINED_FROM: "users.csv"})
    table = table.append_column(joined, pa.array(SIX))
    checked = check(table, make_config(bad_rows="quarantine"))
    assert quarantine_table(checked, table, "log.csv", first_row=10).to_pylist() == [
        {
            "quarantine_reason": "feature 'x' is not a number",
            "quarantine_file": "log.csv",
            "quarantine_row": row + 11,
            "x": value,
            "click": 1,
            "cart": 0,
            "buy": 0,
            "row": letter,
        }
        for row, value, letter in ((1, "many", "b"), (5, "?", "f"))
    ]


@given(st.lists(st.sampled_from([0.5, -1.0, 99.0, None]), min_size=6, max_size=40), st.data())
def test_counts_of_parts_add_up_to_those_of_the_whole(values: list[float | None], data: st.DataObject) -> None:
    config = make_config({"x": {"nullable": False, "range": [0, 9]}}, bad_rows="quarantine")
    ones = [1] * len(values)
    table = pa.table({"x": pa.array(values, pa.float64()), "click": ones, "cart": ones, "buy": ones})

    def count(first: int, stop: int) -> Quarantine:
        part = table.slice(first, stop - first)
        return Quarantine.of(check_rows(config, SCHEMA, ORDER, part, "log.csv", first), part, "log.csv", first)

    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    merged = Quarantine()
    for first, stop in zip([0, *cuts], [*cuts, len(values)], strict=True):
        merged = merged.merge(count(first, stop))
    assert merged == count(0, len(values))
    assert merged.num_bad_rows == sum(value != 0.5 for value in values)


def test_a_flood_of_one_bad_value_is_one_line_with_a_count() -> None:
    num_rows = 1_000_000
    labels = pa.array(np.ones(num_rows, np.int8))
    table = pa.table({"x": ["1"] + ["ten"] * (num_rows - 1), "click": labels, "cart": labels, "buy": labels})
    quarantine = Quarantine.of(check(table, make_config(bad_rows="quarantine")), table, "log.csv")
    for _ in range(200):
        quarantine = quarantine.merge(
            Quarantine(1, {"column 'v' is null": 1}, {"column 'v' is null": "null in b.csv, row 1"})
        )
    assert quarantine.describe() == {
        "rows": 1_000_200,
        "quarantined": 1_000_199,
        "reasons": [
            {"reason": "feature 'x' is not a number", "rows": 999_999, "first": "'ten' in log.csv, row 2"},
            {"reason": "column 'v' is null", "rows": 200, "first": "null in b.csv, row 1"},
        ],
    }
    with pytest.raises(DataError) as caught:
        quarantine.check(0.01)
    assert str(caught.value) == (
        "1,000,199 of 1,000,200 rows are bad (100.00%), and preprocess.contract.max_quarantine_fraction is 0.01: "
        "feature 'x' is not a number (999,999 rows, the first 'ten' in log.csv, row 2); "
        "column 'v' is null (200 rows, the first null in b.csv, row 1). Correct the log, or raise the fraction."
    )


def test_the_limit_itself_is_allowed_and_an_empty_log_has_no_bad_rows() -> None:
    Quarantine(100, {"r": 1}, {"r": "x"}).check(0.01)
    Quarantine().check(0.0)
    with pytest.raises(DataError, match="2 of 100 rows are bad"):
        Quarantine(100, {"r": 2}, {"r": "x"}).check(0.01)


def test_a_long_list_of_reasons_is_cut() -> None:
    counts = {f"reason {place:02d}": 30 - place for place in range(20)}
    with pytest.raises(DataError) as caught:
        Quarantine(1000, counts, dict.fromkeys(counts, "x")).check(0.01)
    assert str(caught.value).count("the first") == 8
    assert "; 12 more reasons. " in str(caught.value)
