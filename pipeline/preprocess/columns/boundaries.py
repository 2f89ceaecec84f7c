"""Boundaries in a column: what the configuration says as a time, a number or a text, and the column in that kind."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.preprocess.columns.text import is_text

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ISO_TIME = re.compile(r"\d{4}-\d{2}-\d{2}([ T].*)?")


def parse_boundary(value: float | str, section: str) -> Any:
    """A boundary as microseconds since 1970 (int), a number (float) or a text; a text that is an ISO time is a time."""
    if not isinstance(value, str) or not ISO_TIME.fullmatch(value):
        return value
    try:
        time = datetime.fromisoformat(value)
    except ValueError as error:
        raise ConfigError(f"{section}: {value!r} is not a time: {error}", "correct the boundary") from error
    # A time without a zone is UTC, in the column as in the boundary.
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return (aware - EPOCH) // timedelta(microseconds=1)


def parse_boundaries(first: tuple[str, float | str], second: tuple[str, float | str], section: str) -> tuple[Any, Any]:
    """Two boundaries, each given with the key that holds it, as `parse_boundary` gives them.

    Raises:
        ConfigError: they are of different kinds, or not in this order.
    """
    low, high = (parse_boundary(value, section) for _, value in (first, second))
    if type(low) is not type(high):
        raise ConfigError(
            f"{section}: {first[0]} {first[1]!r} and {second[0]} {second[1]!r} are not of one kind",
            "give two times, two numbers or two texts",
        )
    if not low < high:
        raise ConfigError(
            f"{section}: {first[0]} {first[1]} is not before {second[0]} {second[1]}",
            f"set {first[0]} to the earlier of the two",
        )
    return low, high


def show_boundary(value: int | float | str) -> str:
    """What `parse_boundary` gives, in words."""
    if isinstance(value, int):
        return str((EPOCH + timedelta(microseconds=value)).replace(tzinfo=None))
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def comparable(column: pa.ChunkedArray, boundary: int | float | str, name: str, section: str) -> pa.ChunkedArray:
    """The column in the boundary's own kind: int64 microseconds, float64 or text.

    Raises:
        ConfigError: it is of another kind; `section` says whose boundaries these are.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    is_temporal, is_texts = pa.types.is_temporal(column.type), is_text(column.type)
    try:
        if isinstance(boundary, int) and (is_temporal or is_texts):
            return _microseconds(column)
        if isinstance(boundary, float) and not is_temporal:
            return column.cast(pa.float64(), safe=False)
        if isinstance(boundary, str) and is_texts:
            return column
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    shown = f", which holds {column[0].as_py()!r}" if len(column) else ""
    raise ConfigError(
        f"{section}: the boundaries cannot be compared with column {name!r} of type {column.type}{shown}",
        "give them as the column has them: a time, a number in its unit, or a text",
    )


def _microseconds(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if is_text(column.type):
        try:
            column = column.cast(pa.timestamp("us"))
        except pa.ArrowInvalid:  # the texts have zones
            column = column.cast(pa.timestamp("us", "UTC"))
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("us"))
    return column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
