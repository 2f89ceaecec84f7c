"""Columns as numbers: what parses, and what is told apart where nothing does."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.preprocess.columns.numbers import Numbers, parse_numbers, unparsable


def parse(values: pa.Array) -> Numbers:
    return parse_numbers(pa.table({"x": values}), "x", "feature 'x'", "log.csv")


def test_numbers_are_parsed_from_text_and_booleans() -> None:
    assert parse(pa.array([" 1.5", "-2", "1e3"])).values.tolist() == [1.5, -2.0, 1000.0]
    assert parse(pa.array([True, False])).values.tolist() == [1.0, 0.0]
    assert parse(pa.array(["7"]).dictionary_encode()).values.tolist() == [7.0]


def test_values_that_are_not_finite_count_as_null_but_apart() -> None:
    numbers = parse(pa.array([1.0, None, math.nan, math.inf, -1e39]))
    assert np.isnan(numbers.values).tolist() == [False, True, True, True, True]
    assert numbers.is_null.tolist() == [False, True, False, False, False]
    assert numbers.is_non_finite.tolist() == [False, False, True, True, True]


@pytest.mark.parametrize("bad", [0, 1, 6, 9])
def test_a_text_that_is_no_number_is_told_apart_from_null(bad: int) -> None:
    texts: list[str | None] = ["1"] * 10
    texts[bad], texts[3] = "many", None
    numbers = parse(pa.array(texts))
    assert np.flatnonzero(numbers.is_wrong).tolist() == [bad]
    assert np.flatnonzero(numbers.is_null).tolist() == [3]
    assert np.flatnonzero(np.isnan(numbers.values)).tolist() == sorted({3, bad})


@pytest.mark.parametrize("values", [[[1.0]], [{"a": 1}]])
def test_a_column_of_another_type_holds_no_numbers(values: list[Any]) -> None:
    with pytest.raises(DataError, match=r"feature 'x': column 'x' of log\.csv has type"):
        parse(pa.array(values))


@pytest.mark.parametrize("column_type", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
@given(values=st.lists(st.one_of(st.none(), st.floats().map(str), st.text(), st.sampled_from(["1", " 2 ", "x"]))))
def test_the_texts_that_do_not_parse_are_found_one_by_one(column_type: pa.DataType, values: list[str | None]) -> None:
    def parses(value: str | None) -> bool:
        try:
            pc.utf8_trim_whitespace(pa.array([value], pa.string())).cast(pa.float64())
        except pa.ArrowInvalid:
            return False
        return True

    column = pa.chunked_array([pa.array(values, pa.string()).cast(column_type)])
    assert unparsable(column, pa.float64()).to_pylist() == [not parses(value) for value in values]
