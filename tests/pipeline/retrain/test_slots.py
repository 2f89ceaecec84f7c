"""Slots are in UTC whatever the clock's zone, come in order, and every row is fresh once before it is trained on."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_retrain import make_config

from pipeline.config import build
from pipeline.errors import ConfigError
from pipeline.preprocess.config import TimeHashSplit
from pipeline.retrain.champion import Champion
from pipeline.retrain.config import Period, RetrainConfig
from pipeline.retrain.plan import configure, plan_slot, window_of
from pipeline.retrain.slots import PERIODS, Schedule, Span, name_of

BERLIN = ZoneInfo("Europe/Berlin")
FIRST = datetime(2025, 3, 28, tzinfo=UTC)
moments = st.datetimes(datetime(2025, 3, 1), datetime(2025, 5, 1), timezones=st.just(UTC))


def schedule(every: str = "day", **settings: Any) -> Schedule:
    return Schedule.of(build(RetrainConfig, {"first_slot": FIRST, "every": every, **settings}, "test"))


schedules = st.builds(
    schedule, st.sampled_from(list(PERIODS)), train_slots=st.integers(1, 9), fresh_slots=st.integers(1, 4)
)


@pytest.mark.parametrize(
    "given_as",
    ["2025-03-28", date(2025, 3, 28), datetime(2025, 3, 28), "2025-03-28T00:00:00Z", "2025-03-28 01:00+01:00"],
)
def test_a_first_slot_is_utc_however_it_is_written(given_as: Any) -> None:
    assert build(RetrainConfig, {"first_slot": given_as}, "test").first_slot == FIRST


def test_a_first_slot_that_is_no_time_is_refused() -> None:
    with pytest.raises(ConfigError, match="first_slot is 'monday'"):
        build(RetrainConfig, {"first_slot": "monday"}, "test")


@pytest.mark.parametrize("every", PERIODS)
def test_slots_are_equally_far_apart_where_clocks_change(every: Period) -> None:
    """Berlin's clocks go forward on 2025-03-30: its day has 23 hours."""
    own = schedule(every)
    now = datetime(2025, 5, 1, 3, tzinfo=BERLIN)
    slots = own.due(now, None)
    assert {later - earlier for earlier, later in pairwise(slots)} == {PERIODS[every]}
    assert all(slot.tzinfo is UTC and slot.hour == 0 for slot in slots if every != "hour")
    assert own.due(now.astimezone(UTC), None) == slots


def test_a_slot_is_due_at_its_midnight_in_utc_and_not_at_that_of_the_clock() -> None:
    midnight = datetime(2025, 4, 2, tzinfo=BERLIN)
    assert schedule().due(midnight, None)[-1] == datetime(2025, 4, 1, tzinfo=UTC)
    assert schedule().due(midnight + timedelta(hours=2), None)[-1] == datetime(2025, 4, 2, tzinfo=UTC)


@given(schedules, moments, st.one_of(st.none(), moments))
def test_due_are_all_slots_up_to_now_after_the_last_one_in_order(
    own: Schedule, now: datetime, last: datetime | None
) -> None:
    every_slot = [own.first + number * own.period for number in range(2000)]
    assert own.due(now, last) == [slot for slot in every_slot if slot <= now and (last is None or slot > last)]


@given(schedules, moments, moments)
def test_missed_slots_are_made_up_for_and_none_is_done_twice(own: Schedule, now: datetime, later: datetime) -> None:
    now, later = sorted((now, later))
    before = own.due(now, None)
    after = own.due(later, before[-1] if before else None)
    assert before + after == own.due(later, None)


@given(schedules, st.integers(0, 40))
def test_every_row_is_trained_on_once_after_it_was_fresh(own: Schedule, count: int) -> None:
    slots = [own.first + number * own.period for number in range(count + 1)]
    tried_until, trained = None, []
    for slot in slots:
        training, fresh = own.training(slot, tried_until), own.fresh(slot)
        assert training.end == fresh.first < fresh.end == slot
        trained.append(training)
        tried_until = training.end
    assert trained[0].end - trained[0].first == own.train_slots * own.period
    assert all(earlier.end == later.first for earlier, later in pairwise(trained))


@given(schedules, st.integers(1, 5), st.integers(0, 5))
def test_rows_of_refused_challengers_are_left_out(own: Schedule, promoted: int, refused: int) -> None:
    retrain = build(RetrainConfig, {"first_slot": FIRST}, "test")
    ends = [FIRST + timedelta(days=number) for number in (promoted, promoted + refused)]
    slot = ends[1] + timedelta(days=3)
    plan = plan_slot(retrain, slot, Champion(1, ends[0], has_same_schema=True), ends[1])
    assert plan.training == Span(ends[1], slot - timedelta(days=1))
    assert not plan.is_cold


@pytest.mark.parametrize(("is_warm", "is_same"), [(False, True), (True, False)])
def test_what_is_trained_anew_takes_the_last_slots_whatever_was_trained_on_before(is_warm: bool, is_same: bool) -> None:
    retrain = build(RetrainConfig, {"first_slot": FIRST, "train_slots": 4, "warm_start": is_warm}, "test")
    champion = Champion(1, FIRST, has_same_schema=is_same)
    plan = plan_slot(retrain, FIRST + timedelta(days=2), champion, FIRST)
    assert plan.training == Span(FIRST - timedelta(days=3), FIRST + timedelta(days=1))
    assert plan.is_cold
    assert plan.compared == (champion if is_same else None)


@pytest.mark.parametrize(
    ("unit", "first"), [(None, "2025-03-28T00:00:00+00:00"), ("seconds", 1743120000.0), ("milliseconds", 1743120000e3)]
)
def test_a_window_has_its_ends_as_the_log_has_its_times(tmp_path: Path, unit: str | None, first: float | str) -> None:
    config = make_config(tmp_path, tmp_path, retrain={"first_slot": FIRST, "time_unit": unit})
    assert config.retrain is not None
    plan = plan_slot(config.retrain, FIRST + timedelta(days=2), Champion(1, FIRST, has_same_schema=True), FIRST)
    assert window_of(config, config.retrain, plan).from_ == first
    split = configure(config, config.retrain, plan, None).preprocess.split
    assert isinstance(split, TimeHashSplit)
    assert type(split.test_from) is type(first)
    assert (split.column, split.key) == ("timestamp", "request_id")


@given(st.lists(moments, min_size=2, unique_by=lambda time: time.replace(microsecond=0)))
def test_folders_have_the_order_of_their_slots(slots: list[datetime]) -> None:
    names = [name_of(slot) for slot in sorted(slots)]
    assert names == sorted(set(names))
