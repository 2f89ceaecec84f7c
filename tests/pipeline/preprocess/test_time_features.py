"""Histories whose events have times, parts of times, and ages."""

from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_features import MOMENT, make_feature, read_values, texts_of

from pipeline.errors import DataError
from pipeline.preprocess.columns.times import parse_times
from pipeline.preprocess.features.kinds import Places, fixed_encoding, read_dense

# --- histories


def test_events_of_the_row_s_time_and_later_are_dropped_and_the_others_put_in_order() -> None:
    feature = make_feature("history", times="t", max_length=2)
    values = read_values(
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
    feature = make_feature("history", times="t", max_length=3)
    values = read_values(feature, x=[["a", "b", "c", "d"]], t=[[1, 2, 2, 0]], now=[3])
    assert texts_of(values) == [["b", "c", "a"]]
    assert values.is_cut.tolist() == [True]


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
    feature = make_feature("history", times="t", delimiter="|", time_unit=unit)
    values = read_values(feature, x=["old|new"], t=[times], now=[now])
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
    values = read_values(make_feature("history", times="t", max_length=max_length), x=ids, t=times, now=now)
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
        read_values(make_feature("history", times="t", delimiter="|"), x=["a|b"], t=times, now=now)


# --- parts and ages


@pytest.mark.parametrize("part", ["hour", "weekday", "day_of_month", "month"])
@given(st.lists(st.none() | st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)), min_size=1), st.integers(-24, 24))
def test_parts_of_times_are_those_of_the_calendar(part: str, moments: list[datetime | None], offset: int) -> None:
    feature = make_feature("time_part", part=part, utc_offset_hours=offset)
    values = read_values(feature, x=pa.array(moments, pa.timestamp("us")))
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
    feature = make_feature("numeric", column="seen", since="born", unit="hours")
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
            make_feature("numeric", column="seen", since="born", log1p=True),
            "log.csv",
            100,
        )
