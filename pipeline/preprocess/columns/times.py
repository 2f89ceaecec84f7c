"""Times: columns of timestamps, dates, ISO texts or numbers as microseconds since 1970, and the parts of a time."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import DataError
from pipeline.feature_kinds import TimePartFeature, TimeUnit
from pipeline.preprocess.columns.numbers import unparsable
from pipeline.preprocess.columns.text import is_text
from pipeline.preprocess.columns.values import Fault, describe

MICROSECONDS: dict[TimeUnit, float] = {
    "nanoseconds": 1e-3,
    "microseconds": 1.0,
    "milliseconds": 1e3,
    "seconds": 1e6,
    "minutes": 60e6,
    "hours": 3_600e6,
    "days": 86_400e6,
}
MICROSECONDS_PER_DAY = 86_400_000_000
# The years 1 to 9999. A number outside them is in another unit than it is said to be.
FIRST_TIME = -62_135_596_800_000_000
LAST_TIME = 253_402_300_799_999_999
ISO_WITH_ZONE = r"[ T][0-9:.]+(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"
NUMBER = r"^[+-]?[0-9]+(\.[0-9]*)?$"


class Times(NamedTuple):
    """int64 microseconds since 1970 in UTC, 0 where `is_null` or `is_wrong`, which exclude each other."""

    microseconds: np.ndarray
    is_null: np.ndarray
    is_wrong: np.ndarray


def parse_times(values: pa.Array | pa.ChunkedArray, unit: TimeUnit, what: str) -> Times:
    """Each value as a time; a text is an ISO time or a number, and a time without a zone is UTC.

    `unit` is that of numbers. NaN is null. No time, and wrong, is a text that does not parse and a number outside the
    years 1 to 9999.

    Raises:
        DataError: values of this type are no times; `what` says what they are read for.
    """
    column = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if is_text(column.type):
        return _parse_texts(column, unit, what)
    is_null = np.asarray(pc.is_null(column, nan_is_null=True))
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        moments = column.cast(pa.timestamp("us", getattr(column.type, "tz", None)), safe=False).cast(pa.int64())
        return Times(np.asarray(moments.fill_null(0)), is_null, np.zeros(len(column), bool))
    if pa.types.is_null(column.type):
        return Times(np.zeros(len(column), np.int64), is_null, np.zeros(len(column), bool))
    if not _counts(column.type):
        raise DataError(f"{what} has type {column.type}, not a time's", "give timestamps, dates, numbers or ISO texts")
    numbers = np.asarray(column.cast(pa.float64(), safe=False).fill_null(0))
    scaled = numbers * MICROSECONDS[unit]
    is_wrong = ~((scaled >= FIRST_TIME) & (scaled <= LAST_TIME)) & ~is_null
    is_good = ~is_wrong & ~is_null
    if not pa.types.is_integer(column.type):
        return Times(np.where(is_good, np.round(scaled), 0).astype(np.int64), is_null, is_wrong)
    # Whole numbers stay exact: float64 has 53 bits.
    whole = pc.if_else(pa.array(is_good), column, pa.scalar(0, column.type)).cast(pa.int64()).to_numpy()
    exact = whole // 1000 if unit == "nanoseconds" else whole * int(MICROSECONDS[unit])
    return Times(exact, is_null, is_wrong)


def _counts(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_))


def _parse_texts(column: pa.ChunkedArray, unit: TimeUnit, what: str) -> Times:
    texts = pc.utf8_trim_whitespace(column)
    is_null = np.asarray(pc.is_null(texts))
    moments = np.zeros(len(texts), np.int64)
    is_wrong = np.zeros(len(texts), bool)
    is_number = np.asarray(pc.match_substring_regex(texts, NUMBER).fill_null(False))
    has_zone = np.asarray(pc.match_substring_regex(texts, ISO_WITH_ZONE).fill_null(False))
    for chosen, type_ in (
        (has_zone, pa.timestamp("us", "UTC")),
        (~has_zone & ~is_number & ~is_null, pa.timestamp("us")),
        (is_number, pa.float64()),
    ):
        if not chosen.any():
            continue
        own = texts.filter(pa.array(chosen))
        is_bad = np.asarray(unparsable(own, type_))
        times = parse_times(pc.if_else(pa.array(is_bad), pa.scalar(None, own.type), own).cast(type_), unit, what)
        moments[chosen] = times.microseconds
        is_wrong[chosen] = is_bad | times.is_wrong
    return Times(moments, is_null, is_wrong)


def judge_times(table: pa.Table, column: str, feature: str, unit: TimeUnit, source: str) -> tuple[Times, Fault]:
    """The times of a column that a feature is read from, and the rows whose time is wrong."""
    times = parse_times(table.column(column), unit, describe(table, column, feature, source))
    return times, time_fault(times.is_wrong, feature, column)


def time_fault(is_wrong: np.ndarray, feature: str, column: str, value: str | None = None) -> Fault:
    rule = "is no time of the years 1 to 9999"
    return Fault(is_wrong, feature, rule, column, "correct the value, or give its unit as time_unit", value)


def time_part(times: Times, feature: TimePartFeature) -> np.ndarray:
    """The int64 part of each time, counted from 0, and -1 where there is no time; weekdays start with Monday."""
    local = times.microseconds + round(feature.utc_offset_hours * MICROSECONDS["hours"])
    days = local // MICROSECONDS_PER_DAY
    match feature.part:
        case "hour":
            part = local % MICROSECONDS_PER_DAY // int(MICROSECONDS["hours"])
        case "weekday":
            part = (days + 3) % 7  # 1970 began on a Thursday
        case "day_of_month":
            dates = days.astype("datetime64[D]")
            part = (dates - dates.astype("datetime64[M]").astype("datetime64[D]")).astype(np.int64)
        case "month":
            part = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) % 12
    return np.where(times.is_null | times.is_wrong, -1, part)
