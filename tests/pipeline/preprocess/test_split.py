"""Splits by hand: time in every column type, hash, order."""

from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import ConfigError, DataError
from pipeline.preprocess.config import HashSplit, OrderSplit, TimeSplit
from pipeline.preprocess.split import assign_splits, check_split, time_span

DAYS = ["2022-04-01", "2022-04-02", "2022-04-03", "2022-04-04"]
TIMES = [datetime.fromisoformat(day) for day in DAYS]


def by_time(values: pa.Array, validation_from: Any, test_from: Any) -> list[int]:
    split = TimeSplit(kind="time", column="t", validation_from=validation_from, test_from=test_from)
    check_split(split)
    found: list[int] = assign_splits(pa.table({"t": values}), split, 0, 0, "log.csv", 10).tolist()
    return found


@pytest.mark.parametrize("second", [TIMES[3], date(2022, 4, 4), "2022-04-04", "2022-04-04T00:00:00"])
@pytest.mark.parametrize(
    "values",
    [
        pa.array(TIMES),
        pa.array(TIMES, pa.timestamp("ns")),
        pa.array([time.replace(tzinfo=UTC) for time in TIMES], pa.timestamp("s", "Europe/Berlin")),
        pa.array([time.date() for time in TIMES]),
        pa.array(DAYS),
        pa.array([f"{day}T02:00:00+02:00" for day in DAYS]),
    ],
    ids=lambda values: str(values.type),
)
def test_times_are_compared_in_every_column_type(values: pa.Array, second: Any) -> None:
    assert by_time(values, "2022-04-03", second) == [0, 0, 1, 2]


@pytest.mark.parametrize(
    "values", [pa.array([1, 9, 10, 20]), pa.array([1.0, 9.9, 10.0, 20.0]), pa.array(["1", "9", "10", "20"])], ids=str
)
def test_numbers_are_compared_as_numbers_even_in_text(values: pa.Array) -> None:
    assert by_time(values, 10, 20) == [0, 0, 1, 2]


def test_texts_are_compared_as_texts() -> None:
    assert by_time(pa.array(["w09", "w10", "w11"]), "w10", "w11") == [0, 1, 2]


@pytest.mark.parametrize(
    ("values", "first", "second"),
    [
        (pa.array([1650000000]), "2022-04-03", "2022-04-04"),
        (pa.array(["spring"]), "2022-04-03", "2022-04-04"),
        (pa.array(["spring"]), 10, 20),
        (pa.array(TIMES), 10, 20),
        (pa.array([1]), "w10", "w11"),
        (pa.array([[1]]), 10, 20),
    ],
)
def test_boundaries_that_cannot_be_compared_are_one_clear_error(values: pa.Array, first: Any, second: Any) -> None:
    with pytest.raises(ConfigError, match=r"the boundaries cannot be compared with column 't' of type .* which holds"):
        by_time(values, first, second)


@pytest.mark.parametrize(("first", "second"), [(20, 10), (10, 10), ("2022-04-04", TIMES[1]), ("w2", "w1")])
def test_boundaries_in_the_wrong_order_are_refused(first: Any, second: Any) -> None:
    with pytest.raises(ConfigError, match=r"validation_from .* is not before test_from"):
        by_time(pa.array([1]), first, second)


def test_boundaries_of_two_kinds_are_refused() -> None:
    with pytest.raises(ConfigError, match="are not of one kind"):
        by_time(pa.array([1]), 10, "2022-04-04")


def test_a_date_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="'2022-02-31' is not a time"):
        by_time(pa.array(DAYS), "2022-02-31", "2022-04-04")


@pytest.mark.parametrize("values", [pa.array([1, None]), pa.array([1.0, float("nan")]), pa.array(["1", None])], ids=str)
def test_a_row_without_a_time_is_named(values: pa.Array) -> None:
    with pytest.raises(DataError, match=r"the split column 't' is null in log\.csv, row 12"):
        by_time(values, 1, 2)


def test_the_span_of_a_column_reads_as_its_values() -> None:
    split = TimeSplit(kind="time", column="t", validation_from=TIMES[1], test_from=TIMES[2])
    spans = [time_span(pa.table({"t": pa.array(part)}), split) for part in (DAYS[:2], DAYS[2:])]
    assert spans[0] is not None
    assert spans[1] is not None
    assert str(spans[1].merge(spans[0])) == "2022-04-01 00:00:00 to 2022-04-04 00:00:00"


def test_a_hash_split_keeps_a_value_together_in_every_type() -> None:
    split = HashSplit(kind="hash", column="user", validation_fraction=0.2, test_fraction=0.3)
    users = np.arange(5000) % 1000
    as_int = assign_splits(pa.table({"user": users}), split, 0, 0)
    as_text = assign_splits(pa.table({"user": pa.array(users).cast(pa.string())}), split, 7, 9)
    assert as_int.tolist() == as_text.tolist()
    assert as_int[:1000].tolist() * 5 == as_int.tolist()
    shares = np.bincount(as_int) / 5000
    assert np.allclose(shares, [0.5, 0.2, 0.3], atol=0.04)


def test_a_hash_split_changes_with_its_seed() -> None:
    table = pa.table({"user": np.arange(100)})
    splits = [assign_splits(table, HashSplit(kind="hash", column="user", seed=seed), 0, 0).tolist() for seed in (0, 1)]
    assert splits[0] != splits[1]


def test_an_order_split_counts_rows_over_all_partitions() -> None:
    split = OrderSplit(kind="order", validation_fraction=0.2, test_fraction=0.3)
    table = pa.table({"x": range(5)})
    assert assign_splits(table, split, 0, 10).tolist() == [0, 0, 0, 0, 0]
    assert assign_splits(table, split, 5, 10).tolist() == [1, 1, 2, 2, 2]
