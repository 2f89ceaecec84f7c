"""Every kind of feature read from raw columns: by hand, against plain Python, and what is refused."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from pipeline.errors import DataError
from pipeline.feature_kinds import Feature, NumericFeature
from pipeline.preprocess.columns.times import parse_times
from pipeline.preprocess.columns.values import SparseValues
from pipeline.preprocess.features.kinds import (
    Places,
    fixed_encoding,
    judge_dense,
    judge_sparse,
    read_dense,
    read_sparse,
)
from pipeline.preprocess.features.normalize import (
    Normalization,
    bucket_of,
    to_inputs,
)
from pipeline.preprocess.features.vocabulary import HashBuckets
from pipeline.preprocess.profiles.sample import QuantileSample, RowOrder

ADAPTER: TypeAdapter[Any] = TypeAdapter(Feature)


def make(kind: str, **settings: Any) -> Any:
    return ADAPTER.validate_python({"name": "x", "kind": kind, **settings})


def read(feature: Any, **columns: Any) -> SparseValues:
    return read_sparse(pa.table(columns), feature, "log.csv", 100, "now" if "now" in columns else None)


def texts_of(values: SparseValues) -> list[Any]:
    """The text of each value, in a list per row unless each row has one."""
    flat = [None if code < 0 else values.codes.texts[int(code)].as_py() for code in values.codes.codes]
    if values.lengths is None:
        return flat
    ends = np.cumsum(values.lengths)
    return [flat[end - length : end] for end, length in zip(ends, values.lengths, strict=True)]


def weights_of(values: SparseValues) -> list[list[float]]:
    assert values.weights is not None
    assert values.lengths is not None
    assert values.weights.dtype == np.float32
    return [part.tolist() for part in np.split(values.weights, np.cumsum(values.lengths)[:-1])]


# --- lists


def test_lists_and_split_texts_are_the_same() -> None:
    feature = make("multi_valued", delimiter="|", max_length=2)
    lists = read(feature, x=[["a", "3.0", "c"], None, [], [None]])
    assert texts_of(lists) == [["a", "3"], [], [], [None]]
    assert lists.is_null.tolist() == [False, True, False, False]
    assert lists.is_cut.tolist() == [True, False, False, False]
    assert lists.weights is None
    split = read(feature, x=["a| 3.0 ||c", None, " | ", "b"])
    assert texts_of(split) == [["a", "3"], [], [], ["b"]]


def test_a_text_without_a_delimiter_is_no_list() -> None:
    with pytest.raises(DataError, match=r"feature 'x': column 'x' of log.csv has type string, not a list. Add the `de"):
        read(make("history"), x=["a|b"])


# --- weights


def test_weights_stand_after_the_last_delimiter_of_a_piece() -> None:
    values = read(make("weighted_multi_valued", delimiter="|"), x=["a:0.5|b|c:x: 2 |:7|d:", None, "", "a:0"])
    assert texts_of(values) == [["a", "b", "c:x", "d"], [], [], ["a"]]
    assert weights_of(values) == [[0.5, 1.0, 2.0, 1.0], [], [], [0.0]]
    assert values.is_null.tolist() == [False, True, False, False]


def test_elements_of_a_list_have_weights_too() -> None:
    values = read(
        make("weighted_multi_valued", max_length=2, weight_delimiter="@"), x=[["a@2", None, "b@3"], ["3.0@4"]]
    )
    assert texts_of(values) == [["a", None], ["3"]]
    assert weights_of(values) == [[2.0, 1.0], [4.0]]
    assert values.is_cut.tolist() == [True, False]


@pytest.mark.parametrize(
    ("ids", "weights"),
    [
        ([["a", "b"], ["c"], [], None], [[0.5, None], None, [], None]),
        ([["a", "b"], ["c"], [], None], [["0.5", ""], None, [], None]),
        (["a|b", "c", "", None], ["0.5|", None, "", None]),
        (["a||b", "c|", "", None], ["0.5|9|", "1|2", " ", None]),
        ([["a", "b"], ["c"], [], None], ["0.5|", "1", "", None]),
    ],
)
def test_weights_may_be_in_a_column_of_their_own(ids: list[Any], weights: list[Any]) -> None:
    values = read(make("weighted_multi_valued", delimiter="|", weights="w"), x=ids, w=weights)
    assert texts_of(values) == [["a", "b"], ["c"], [], []]
    assert weights_of(values) == [[0.5, 1.0], [1.0], [], []]


@pytest.mark.parametrize("bad", ["-1", "nan", "inf", "1e31", "much", "1 2"])
def test_what_is_no_weight_is_named_with_its_row(bad: str) -> None:
    message = rf"feature 'x': '{bad}' in log.csv, row 102 is no weight, a finite number of at least 0"
    with pytest.raises(DataError, match=message):
        read(make("weighted_multi_valued", delimiter="|"), x=["a:1", f"b:2|c:{bad}"])
    with pytest.raises(DataError, match=message):
        read(make("weighted_multi_valued", weights="w"), x=[["a"], ["b", "c"]], w=[["1"], ["2", bad]])


def test_more_or_fewer_weights_than_ids_are_named_with_their_row() -> None:
    feature = make("weighted_multi_valued", weights="w")
    message = r"feature 'x': \[1.0\] in log.csv, row 102 has another number of weights than there are ids"
    with pytest.raises(DataError, match=message):
        read(feature, x=[["a"], ["b", "c"]], w=[[1.0], [1.0]])
    columns = {"x": [["a"], ["b", "c"], ["d"], ["e"]], "w": [[2.0], [1.0], [-1.0], [5.0]]}
    values, faults = judge_sparse(pa.table(columns), feature, "log.csv")
    assert [fault.is_wrong.tolist() for fault in faults] == [[False, True, False, False], [False, False, True, False]]
    assert faults[1].reason == "feature 'x' is no weight, a finite number of at least 0"
    # The rows that can be used are what they are without the others.
    assert texts_of(values) == [["a"], [], ["d"], ["e"]]
    assert weights_of(values)[3] == [5.0]


def test_weights_of_another_type_are_refused() -> None:
    with pytest.raises(DataError, match=r"the weights of feature 'x': column 'w' of log.csv has type"):
        read(make("weighted_multi_valued", weights="w"), x=[["a"]], w=[[{"b": 1}]])


PIECES = st.lists(st.tuples(st.sampled_from(["a", "b", "c:d"]), st.none() | st.integers(0, 9)), max_size=4)


@given(st.lists(st.none() | PIECES, min_size=1), st.integers(1, 3))
def test_every_way_to_write_weights_reads_the_same(rows: list[Any], max_length: int) -> None:
    texts = [
        None if row is None else "|".join(f"{id_}:{'' if weight is None else weight}" for id_, weight in row)
        for row in rows
    ]
    ids = pa.array([row and [id_ for id_, _ in row] for row in rows], pa.list_(pa.string()))
    weights = pa.array([row and [weight for _, weight in row] for row in rows], pa.list_(pa.int64()))
    in_text = read(make("weighted_multi_valued", delimiter="|", max_length=max_length), x=pa.array(texts, pa.string()))
    beside = read(make("weighted_multi_valued", weights="w", max_length=max_length), x=ids, w=weights)
    expected = [(row or [])[:max_length] for row in rows]
    for values in (in_text, beside):
        assert texts_of(values) == [[id_ for id_, _ in row] for row in expected]
        assert weights_of(values) == [
            [1.0 if weight is None else float(weight) for _, weight in row] for row in expected
        ]
        assert values.is_cut.tolist() == [len(row or []) > max_length for row in rows]


# --- histories whose events have times


def test_events_of_the_row_s_time_and_later_are_dropped_and_the_others_put_in_order() -> None:
    feature = make("history", times="t", max_length=2)
    values = read(
        feature,
        x=[["a", "b", "c", "d"], ["a", "b"], ["a", "b"], ["a"], None],
        t=[[3, 10, 7, 11], [1, None], None, [5], None],
        now=[10, 10, 10, None, 10],
    )
    assert texts_of(values) == [["c", "a"], ["a"], [], [], []]
    assert values.counts["future_events"].tolist() == [2, 0, 0, 0, 0]
    assert values.counts["undated_events"].tolist() == [0, 1, 2, 1, 0]
    assert values.is_cut.tolist() == [False] * 5
    assert values.is_null.tolist() == [False] * 4 + [True]


def test_the_most_recent_events_are_kept_and_those_of_one_time_stay_in_order() -> None:
    values = read(make("history", times="t", max_length=3), x=[["a", "b", "c", "d"]], t=[[1, 2, 2, 0]], now=[3])
    assert texts_of(values) == [["b", "c", "a"]]
    assert values.is_cut.tolist() == [True]


MOMENT = datetime(2024, 2, 29, 23, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("times", "now", "unit"),
    [
        ("2024-02-29 23:29:59|2024-02-29T23:30:00.000001", MOMENT, "seconds"),
        ("2024-03-01T00:29:59+01:00|2024-03-01T00:30:01+01:00", "2024-02-29T23:30:00Z", "seconds"),
        ("2024-02-29|2024-03-01", MOMENT, "seconds"),
        ("1709249399.5|1709249400", MOMENT, "seconds"),
        ("1709249399999|1709249400000", 1709249400000, "milliseconds"),
        ([MOMENT - timedelta(seconds=1), MOMENT], MOMENT, "seconds"),
        ([MOMENT.date(), MOMENT.date() + timedelta(days=1)], MOMENT, "seconds"),
        ([1709249400 * 10**9 - 1000, 1709249400 * 10**9], MOMENT, "nanoseconds"),
        ([474791.0, 474792.0], "2024-03-01 00:00:00", "hours"),
    ],
)
def test_times_are_compared_whatever_they_are_written_as(times: Any, now: Any, unit: str) -> None:
    feature = make("history", times="t", delimiter="|", time_unit=unit)
    values = read(feature, x=["old|new"], t=[times], now=[now])
    assert texts_of(values) == [["old"]]
    assert values.counts["future_events"].tolist() == [1]


@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.sampled_from("abcd"), st.none() | st.integers(-5, 5)), max_size=6),
            st.none() | st.integers(-5, 5),
        ),
        min_size=1,
    ),
    st.integers(1, 4),
)
def test_no_event_of_the_row_s_time_or_later_is_ever_read(rows: list[Any], max_length: int) -> None:
    ids = pa.array([[id_ for id_, _ in events] for events, _ in rows], pa.list_(pa.string()))
    times = pa.array([[time for _, time in events] for events, _ in rows], pa.list_(pa.int64()))
    now = pa.array([own for _, own in rows], pa.int64())
    values = read(make("history", times="t", max_length=max_length), x=ids, t=times, now=now)
    expected = []
    for events, own in rows:
        past = [event for event in events if None not in (event[1], own) and event[1] < own]
        expected.append([id_ for id_, _ in sorted(past, key=lambda event: -event[1])])
    assert texts_of(values) == [row[:max_length] for row in expected]
    assert values.is_cut.tolist() == [len(row) > max_length for row in expected]
    dropped = values.counts["future_events"] + values.counts["undated_events"]
    assert dropped.tolist() == [len(events) - len(row) for (events, _), row in zip(rows, expected, strict=True)]


@pytest.mark.parametrize(
    ("times", "now", "message"),
    [
        (["1|soon"], [5], "'soon' in log.csv, row 101 is no time of the years 1 to 9999"),
        (["1|1709249400000"], [5], "'1709249400000' in log.csv, row 101 is no time .* give its unit as time_unit"),
        (["1|2"], [10**18], "1000000000000000000 in log.csv, row 101 is no time"),
        (["1"], [5], "'1' in log.csv, row 101 has another number of times than there are ids"),
        (["1|2"], [True], "column 'now' of log.csv has type bool, not a time's"),
    ],
)
def test_a_wrong_time_is_named_with_its_row(times: list[Any], now: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=f"feature 'x': .*{message}".replace(": .*'", ": '")):
        read(make("history", times="t", delimiter="|"), x=["a|b"], t=times, now=now)


# --- crosses


def test_a_cross_is_null_where_a_column_is() -> None:
    values = read(make("crossed", columns=["a", "b"], num_hash_buckets=9), a=["x", None, "x"], b=[1.0, 2.0, None])
    assert texts_of(values) == ["x|1", None, None]
    assert values.is_null.tolist() == [False, True, True]
    assert texts_of(read(make("crossed", columns=["a", "b"], num_hash_buckets=9), a=pa.nulls(0), b=pa.nulls(0))) == []


PARTS = st.none() | st.text("a|\\", max_size=3)


@given(st.lists(st.tuples(PARTS, PARTS, PARTS), min_size=1, max_size=30))
def test_crosses_are_equal_exactly_where_all_their_columns_are(rows: list[tuple[Any, ...]]) -> None:
    columns = {name: pa.array(column, pa.string()) for name, column in zip("abc", zip(*rows, strict=True), strict=True)}
    crossed = texts_of(read(make("crossed", columns=["c", "a", "b"], num_hash_buckets=9), **columns))
    for row, text in zip(rows, crossed, strict=True):
        assert (text is None) == (None in row)
        for other, other_text in zip(rows, crossed, strict=True):
            if text is not None:
                assert (text == other_text) == (row == other)


def test_only_a_table_with_a_vocabulary_has_no_fixed_encoding() -> None:
    assert fixed_encoding(make("categorical")) is None
    assert fixed_encoding(make("categorical", num_hash_buckets=7)) == HashBuckets(7)
    assert fixed_encoding(make("crossed", columns=["a", "b"], num_hash_buckets=9)) == HashBuckets(9)
    assert fixed_encoding(make("bucketed", boundaries=[1, 2])) == Places(3)


# --- times


@pytest.mark.parametrize("part", ["hour", "weekday", "day_of_month", "month"])
@given(st.lists(st.none() | st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)), min_size=1), st.integers(-24, 24))
def test_parts_of_times_are_those_of_the_calendar(part: str, moments: list[datetime | None], offset: int) -> None:
    feature = make("time_part", part=part, utc_offset_hours=offset)
    values = read(feature, x=pa.array(moments, pa.timestamp("us")))
    expected: list[str | None] = []
    for moment in moments:
        if moment is None:
            expected.append(None)
            continue
        local = moment + timedelta(hours=offset)
        parts = {
            "hour": local.hour,
            "weekday": local.weekday(),
            "day_of_month": local.day - 1,
            "month": local.month - 1,
        }
        expected.append(str(parts[part]))
    assert texts_of(values) == expected
    rows = fixed_encoding(feature)
    assert isinstance(rows, Places)
    assert rows.num_rows == feature.fixed_rows
    assert (rows.rows_of(values.codes.texts) == np.arange(2, feature.fixed_rows)).all()
    assert (rows.rows_at(values.codes.codes) == [1 if text is None else 2 + int(text) for text in expected]).all()


def test_a_time_is_the_same_in_every_type() -> None:
    zone = timezone(timedelta(hours=5))
    moment = 1709249400 * 10**6
    for values, unit in (
        (pa.array([MOMENT, None]), "days"),
        (pa.array([MOMENT.astimezone(zone), None], pa.timestamp("ms", "Asia/Karachi")), "days"),
        (pa.array([1709249400, None], pa.uint64()), "seconds"),
        (pa.array([1709249400, float("nan")]), "seconds"),
        (pa.array([1709249400 / 86400, None]), "days"),
        (pa.array(["2024-02-29T23:30", None]).dictionary_encode(), "days"),
        (pa.array([" 1709249400000 ", None]), "milliseconds"),
    ):
        times = parse_times(values, unit, "x")  # type: ignore[arg-type]
        assert times.microseconds.tolist() == [moment, 0], values
        assert times.is_null.tolist() == [False, True], values
        assert not times.is_wrong.any(), values
    assert parse_times(pa.array([" ", "2024-02-30", "now", "1e3"]), "seconds", "x").is_wrong.all()


def test_an_age_is_the_time_between_two_columns() -> None:
    feature = make("numeric", column="seen", since="born", unit="hours")
    table = pa.table(
        {"seen": [MOMENT, MOMENT, None, MOMENT], "born": ["2024-02-29 23:00:00", None, "2024-02-29", "2020-02-29"]}
    )
    ages = read_dense(table, feature, "log.csv")
    assert ages.values.tolist()[::3] == [0.5, 1461 * 24 + 23.5]
    assert ages.is_null.tolist() == [False, True, True, False]
    assert not ages.is_non_finite.any()
    with pytest.raises(DataError, match=r"feature 'x': 'new' in log.csv, row 101 is no time"):
        read_dense(pa.table({"seen": [1], "born": ["new"]}), feature, "log.csv", 100)
    with pytest.raises(DataError, match=r"feature 'x': -2 in log.csv, row 101 is below 0, where log1p has no use"):
        read_dense(
            pa.table({"seen": [1], "born": [3]}),
            make("numeric", column="seen", since="born", log1p=True),
            "log.csv",
            100,
        )


# --- numbers


def test_numbers_that_cannot_be_used_are_told_apart_from_null() -> None:
    table = pa.table({"x": ["1", "many", None, "inf", "-3"]})
    numbers, faults = judge_dense(table, make("numeric", log1p=True), "log.csv")
    assert [fault.is_wrong.tolist().index(True) for fault in faults] == [1, 4]
    assert numbers.values[0] == 1
    assert np.isnan(numbers.values[1:]).all()
    assert numbers.is_null.tolist() == [False, False, True, False, False]
    assert numbers.is_non_finite.tolist() == [False, False, False, True, False]
    with pytest.raises(DataError, match=r"feature 'x': 'many' in log.csv, row 102 is not a number"):
        read_dense(table, make("numeric", log1p=True), "log.csv", 100)


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
    feature: NumericFeature = make("numeric", **settings)
    inputs = to_inputs(np.array([10.0, np.nan]), feature, Normalization(mean=10.0, deviation=2.0))
    known = np.log1p(10.0) if feature.log1p else 10.0
    assert inputs.tolist() == [0.0 if feature.standardise else known, null]


# --- buckets


def test_a_number_equal_to_a_boundary_is_in_the_bucket_above() -> None:
    assert bucket_of(np.array([-1.0, 0.0, 0.5, 7.0, np.nan]), (0.0, 0.5)).tolist() == [0, 1, 2, 2, -1]
    assert bucket_of(np.array([3.0, np.nan]), ()).tolist() == [0, -1]
    numbers = read_dense(pa.table({"x": ["1", None, "inf"]}), make("bucketed", boundaries=[0]), "log.csv")
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
