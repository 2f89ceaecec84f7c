"""The profile of a feature is that of the whole log however it is divided, and bounded however long the log is."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.preprocess.profiles import profile
from pipeline.preprocess.profiles.profile import LengthProfile, NumberProfile, ValueProfile, bin_counts, bin_edges
from pipeline.preprocess.profiles.sample import RowOrder, Sample

NAN = float("nan")


def of(values: Any) -> NumberProfile:
    return NumberProfile.of(np.asarray(values, np.float64), RowOrder.of(np.arange(len(values))))


@given(
    values=st.lists(st.one_of(st.just(NAN), st.floats(-1e6, 1e6)), max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    size=st.sampled_from([1, 7, 100]),
)
def test_parts_merge_to_the_profile_of_the_whole(values: list[float], cuts: list[int], size: int) -> None:
    column, rows = np.array(values, np.float64), np.arange(len(values))
    bounds = sorted(min(cut, len(values)) for cut in cuts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sample, "max_rows", size)
        merged = NumberProfile()
        for start, stop in zip([0, *bounds], [*bounds, len(values)], strict=True):
            merged = merged.merge(NumberProfile.of(column[start:stop], RowOrder.of(rows[start:stop])))
        whole = NumberProfile.of(column, RowOrder.of(rows))
    np.testing.assert_array_equal(merged.sample.hashes, whole.sample.hashes)
    np.testing.assert_array_equal(merged.sample.values, whole.sample.values)
    assert len(whole.sample.values) == min(size, np.sum(~np.isnan(column)))
    ours, theirs = merged.describe(), whole.describe()
    if whole.moments.count:
        for name in ("mean", "deviation"):
            assert ours.pop(name) == pytest.approx(theirs.pop(name), rel=1e-9, abs=1e-6)
    assert ours == theirs


def test_a_sample_is_bounded_and_looks_like_the_whole() -> None:
    values = np.random.default_rng(0).normal(size=300_000)
    # Sorted, so that a sample of the first rows would be far off.
    described = of(np.sort(values)).describe()
    assert len(of(np.sort(values)).sample.values) == Sample.max_rows
    for percent, expected in {"1": -2.326, "25": -0.674, "50": 0.0, "75": 0.674, "99": 2.326}.items():
        assert described["quantiles"][percent] == pytest.approx(expected, abs=0.15)
    assert (described["quantiles"]["0"], described["quantiles"]["100"]) == (values.min(), values.max())
    assert (described["distinct"], described["distinct_in_sample"]) == (None, Sample.max_rows)


def test_numbers_are_described_by_hand() -> None:
    described = of([3.0, NAN, 1.0, 2.0, 2.0, NAN]).describe()
    assert described == {
        "rows": 6,
        "nulls": 2,
        "distinct": 3,
        "distinct_in_sample": 3,
        "mean": 2.0,
        "deviation": pytest.approx(0.5**0.5),
        "quantiles": {"0": 1, "1": 1, "5": 1, "25": 1, "50": 2, "75": 2, "95": 3, "99": 3, "100": 3},
        "histogram": {"edges": [1.5, 2.5], "counts": [1, 2, 1]},
    }


def test_what_no_value_defines_is_null_and_json_can_hold_it() -> None:
    for values in ([], [NAN, NAN]):
        described = of(values).describe()
        assert (described["mean"], described["quantiles"], described["histogram"]) == (None, None, None)
        json.dumps(described, allow_nan=False)
    assert of([7.0] * 5).describe()["histogram"] == {"edges": [], "counts": [5]}
    assert LengthProfile().describe() == {"lists": 0, "mean": None, "quantiles": None}


@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=200))
def test_every_value_is_in_one_of_at_most_twenty_bins(values: list[float]) -> None:
    edges = bin_edges(np.array(values))
    assert len(edges) < profile.MAX_BINS
    assert np.all(np.diff(edges) > 0)
    assert sum(bin_counts(np.array(values), edges)) == len(values)


def test_an_outlier_does_not_squeeze_the_other_values_into_one_bin() -> None:
    values = np.append(np.random.default_rng(0).random(10_000), 1e9)
    counts = bin_counts(values, bin_edges(values))
    assert len(counts) == profile.MAX_BINS
    assert max(counts) < 1000
    mostly_zero = np.append(np.zeros(10_000), np.arange(1.0, 50.0))
    assert bin_counts(mostly_zero, bin_edges(mostly_zero))[-1] == 1


def test_no_two_rows_have_one_hash() -> None:
    sample = Sample.of(np.zeros(Sample.max_rows), RowOrder.of(np.arange(Sample.max_rows)))
    assert len(np.unique(sample.hashes)) == Sample.max_rows


@given(st.lists(st.integers(0, 9), max_size=50), st.integers(0, 50))
def test_lengths_merge_and_have_the_mean_and_quantiles_of_their_lists(lengths: list[int], cut: int) -> None:
    merged = LengthProfile.of(np.array(lengths[:cut], np.int64)).merge(
        LengthProfile.of(np.array(lengths[cut:], np.int64))
    )
    described = merged.describe()
    assert described == LengthProfile.of(np.array(lengths, np.int64)).describe()
    if lengths:
        assert described["mean"] == pytest.approx(np.mean(lengths))
        expected = np.quantile(lengths, profile.QUANTILES, method="inverted_cdf").tolist()
        assert list(described["quantiles"].values()) == expected


def test_top_values_are_the_most_frequent_first_and_a_tie_goes_by_text() -> None:
    counts = pa.table({"value": ["b", "c", "a", "d" * 900], "count": [5, 9, 5, 1]})
    described = ValueProfile.of(counts).describe()
    assert described == {
        "distinct_values": 4,
        "num_values": 20,
        "top_values": [["c", 9], ["a", 5], ["b", 5], ["d" * profile.MAX_VALUE_LENGTH, 1]],
    }
    halves = [ValueProfile.of(counts.slice(start, 2)) for start in (0, 2)]
    assert halves[0].merge(halves[1]).describe() == halves[1].merge(halves[0]).describe() == described
    many = pa.table({"value": [f"{n:04d}" for n in range(1000)], "count": [1] * 1000})
    assert [value for value, _ in ValueProfile.of(many).top] == [f"{n:04d}" for n in range(100)]
    empty = pa.table({"value": pa.array([], pa.string()), "count": pa.array([], pa.int64())})
    assert ValueProfile.of(empty) == ValueProfile()


@pytest.mark.parametrize("values", [[], [NAN], [1.5, NAN, -1e30]])
def test_a_profile_survives_json(values: list[float]) -> None:
    read = NumberProfile.from_json(json.loads(json.dumps(of(values).to_json(), allow_nan=False)))
    assert read.describe() == of(values).describe()
    assert read.merge(of([2.0])).describe() == of(values).merge(of([2.0])).describe()
