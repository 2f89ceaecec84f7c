"""Numbers as they are and in buckets, and the sample of quantiles that the buckets come from."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_features import make_feature

from pipeline.errors import DataError
from pipeline.feature_kinds import NumericFeature
from pipeline.preprocess.features.kinds import Places, judge_dense, read_dense
from pipeline.preprocess.features.normalize import Normalization, bucket_of, to_inputs
from pipeline.preprocess.profiles.sample import QuantileSample, RowOrder


def test_numbers_that_cannot_be_used_are_told_apart_from_null() -> None:
    table = pa.table({"x": ["1", "many", None, "inf", "-3"]})
    numbers, faults = judge_dense(table, make_feature("numeric", log1p=True), "log.csv")
    assert [fault.is_wrong.tolist().index(True) for fault in faults] == [1, 4]
    assert numbers.values[0] == 1
    assert np.isnan(numbers.values[1:]).all()
    assert numbers.is_null.tolist() == [False, False, True, False, False]
    assert numbers.is_non_finite.tolist() == [False, False, False, True, False]
    with pytest.raises(DataError, match=r"feature 'x': 'many' in log.csv, row 102 is not a number"):
        read_dense(table, make_feature("numeric", log1p=True), "log.csv", 100)


@pytest.mark.parametrize(
    ("settings", "null"),
    [
        ({}, 0.0),
        ({"fill": "mean"}, 0.0),
        ({"fill": 14}, 2.0),
        ({"fill": 14, "clip": [0, 12]}, 1.0),
        ({"fill": np.e - 1, "log1p": True, "standardise": False}, 1.0),
        ({"standardise": False}, 0.0),
        ({"standardise": False, "fill": "mean"}, 10.0),
        ({"standardise": False, "fill": 1e300}, float(np.finfo(np.float32).max)),
    ],
)
def test_a_null_number_is_filled(settings: dict[str, Any], null: float) -> None:
    feature: NumericFeature = make_feature("numeric", **settings)
    inputs = to_inputs(np.array([10.0, np.nan]), feature, Normalization(mean=10.0, deviation=2.0))
    known = np.log1p(10.0) if feature.log1p else 10.0
    assert inputs.tolist() == [0.0 if feature.standardise else known, null]


# --- buckets


def test_a_number_equal_to_a_boundary_is_in_the_bucket_above() -> None:
    assert bucket_of(np.array([-1.0, 0.0, 0.5, 7.0, np.nan]), (0.0, 0.5)).tolist() == [0, 1, 2, 2, -1]
    assert bucket_of(np.array([3.0, np.nan]), ()).tolist() == [0, -1]
    numbers = read_dense(pa.table({"x": ["1", None, "inf"]}), make_feature("bucketed", boundaries=[0]), "log.csv")
    assert Places(2).rows_at(bucket_of(numbers.values, (0.0,))).tolist() == [3, 1, 1]


def sample_of(values: np.ndarray, part: int = 0) -> QuantileSample:
    return QuantileSample.of(values, RowOrder.of((part << 40) + np.arange(len(values))))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60, unique=True), st.integers(2, 8))
def test_buckets_of_distinct_numbers_are_equal_within_one_row(values: list[float], num_buckets: int) -> None:
    found = bucket_of(np.array(values), sample_of(np.array(values)).boundaries(num_buckets))
    sizes = np.bincount(found, minlength=1)
    assert sizes.sum() == len(values)
    assert sizes.max() - sizes.min() <= 1
    assert len(sizes) == min(num_buckets, len(values))


def test_numbers_that_occur_often_make_fewer_buckets_and_none_of_them_is_empty() -> None:
    values = np.array([0.0] * 90 + [1.0] * 5 + [2.0] * 5)
    boundaries = sample_of(values).boundaries(20)
    assert boundaries == (1.0, 2.0)
    assert QuantileSample().boundaries(4) == ()
    assert sample_of(np.zeros(9)).boundaries(4) == ()


def test_the_sample_is_the_same_however_parts_are_merged_and_is_bounded() -> None:
    generator = np.random.default_rng(0)
    parts = [sample_of(generator.normal(size=QuantileSample.max_rows // 2 + 1000 * place), place) for place in range(4)]
    one = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3])
    other = parts[3].merge(parts[1]).merge(parts[2].merge(parts[0]))
    assert len(one.hashes) == len(np.unique(one.hashes)) == QuantileSample.max_rows
    assert (one.hashes == other.hashes).all()
    assert (one.values == other.values).all()
    again = QuantileSample.from_text(one.to_text())
    assert (again.hashes == one.hashes).all()
    assert again.boundaries(100) == one.boundaries(100)


def test_the_quantiles_of_many_rows_are_near_the_true_ones() -> None:
    values = np.random.default_rng(1).permutation(1_000_000).astype(np.float64)
    sample = QuantileSample()
    for part, own in enumerate(np.split(values, 10)):
        sample = sample.merge(sample_of(own, part))
    shares = np.bincount(bucket_of(values, sample.boundaries(10))) / len(values)
    assert abs(shares - 0.1).max() < 0.01
