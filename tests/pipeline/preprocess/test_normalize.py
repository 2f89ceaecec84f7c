"""Numeric columns: parsing, moments against numpy, clip, log1p and scaling."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.preprocess.normalize import MAX_FLOAT32, Moments, Numbers, clip_and_log, parse_numbers, standardise
from pipeline.schema import NumericFeature

FLOATS = st.floats(-1e6, 1e6)


def parse(values: pa.Array) -> Numbers:
    return parse_numbers(pa.table({"x": values}), "x", "feature 'x'", "log.csv", first_row=100)


@given(st.lists(st.lists(FLOATS)))
def test_merged_moments_are_those_of_all_values(parts: list[list[float]]) -> None:
    merged = Moments()
    for part in parts:
        merged = merged.merge(Moments.of(np.array(part, np.float64)))
    values = np.array([value for part in parts for value in part])
    assert merged.count == len(values)
    if len(values):
        assert math.isclose(merged.mean, values.mean(), rel_tol=1e-9, abs_tol=1e-6)
        assert math.isclose(merged.deviation, values.std(), rel_tol=1e-6, abs_tol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_a_constant_is_left_unscaled_and_becomes_0(count: int) -> None:
    normalization = Moments.of(np.full(count, 0.1)).normalization()
    assert normalization.deviation == 1.0
    if count:
        assert standardise(np.array([0.1]), normalization).tolist() == [0.0]


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
def test_a_text_that_is_no_number_is_named_with_its_row(bad: int) -> None:
    texts = ["1"] * 10
    texts[bad] = "many"
    with pytest.raises(DataError, match=f"feature 'x': 'many' in log.csv, row {101 + bad} is not a number"):
        parse(pa.array(texts))


@pytest.mark.parametrize("values", [[[1.0]], [{"a": 1}]])
def test_a_column_of_another_type_holds_no_numbers(values: list[Any]) -> None:
    with pytest.raises(DataError, match=r"feature 'x': column 'x' of log\.csv has type"):
        parse(pa.array(values))


def test_clip_comes_before_log1p() -> None:
    feature = NumericFeature(name="x", kind="numeric", clip=(0, math.e - 1), log1p=True)
    values = clip_and_log(np.array([-5.0, 0.0, 100.0, np.nan]), feature, str)
    assert np.allclose(values[:3], [0.0, 0.0, 1.0])
    assert np.isnan(values[3])


def test_a_negative_number_before_log1p_is_named_with_the_remedy() -> None:
    feature = NumericFeature(name="x", kind="numeric", log1p=True)
    with pytest.raises(DataError, match=r"feature 'x': -5 in row one is below 0.*Add `clip: \[0, \.\.\.\]`"):
        clip_and_log(np.array([3.0, -5.0]), feature, {1: "row one"}.__getitem__)


@given(FLOATS, st.lists(st.floats(-MAX_FLOAT32, MAX_FLOAT32), min_size=1))
def test_scaled_values_fit_in_float32(value: float, training: list[float]) -> None:
    normalization = Moments.of(np.array(training)).normalization()
    assert np.isfinite(standardise(np.array([value]), normalization).astype(np.float32)).all()
