"""The quarantine: the rows that it holds, their counts over all parts of a log, and its limit."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_contracts import ORDER, SCHEMA, check, make_contract, make_table

from pipeline.errors import DataError
from pipeline.preprocess.checks.contract import check_rows
from pipeline.preprocess.checks.quarantine import Quarantine, quarantine_table
from pipeline.preprocess.raw_files.sources import JOINED_FROM


def test_the_quarantine_holds_the_rows_as_they_were_with_reason_file_and_row() -> None:
    table = make_table(x=["1", "many", "3", "4", "5", "?"], row=["a", "b", "c", "d", "e", "f"])
    joined = pa.field("age", pa.int64(), metadata={JOINED_FROM: "users.csv"})
    table = table.append_column(joined, pa.array(range(6)))
    checked = check(table, make_contract(bad_rows="quarantine"))
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
    config = make_contract({"x": {"nullable": False, "range": [0, 9]}}, bad_rows="quarantine")
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
    quarantine = Quarantine.of(check(table, make_contract(bad_rows="quarantine")), table, "log.csv")
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
