"""Numeric columns: parsing, clip and log1p, the moments of the training rows, buckets, and standardising.

A value that is no finite float32 (NaN, infinity, 1e300) counts as null.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import Section
from pipeline.errors import DataError
from pipeline.preprocess.sources import file_of, locate
from pipeline.preprocess.text import is_text
from pipeline.schema import NumericFeature

MAX_FLOAT32 = float(np.finfo(np.float32).max)


class Normalization(Section):
    """What standardising a numeric feature needs, of its training rows after clip and log1p."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Moments:
    """Count, mean, sum of squared deviations and range of some numbers; mergeable in a fixed order."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    lowest: float = math.inf
    highest: float = -math.inf

    @classmethod
    def of(cls, values: np.ndarray) -> "Moments":
        """Of float64 values without NaN."""
        if not len(values):
            return cls()
        mean = float(values.mean())
        return cls(len(values), mean, float(np.square(values - mean).sum()), float(values.min()), float(values.max()))

    def merge(self, other: "Moments") -> "Moments":
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        gap = other.mean - self.mean
        return Moments(
            count,
            self.mean + gap * other.count / count,
            self.squares + other.squares + gap * gap * self.count * other.count / count,
            min(self.lowest, other.lowest),
            max(self.highest, other.highest),
        )

    @property
    def deviation(self) -> float:
        """The standard deviation; exactly 0 when all numbers are equal, whatever the rounding of their mean."""
        if self.lowest >= self.highest:
            return 0.0
        return math.sqrt(self.squares / self.count)

    def normalization(self) -> Normalization:
        """A constant feature, or one without a value, is left unscaled."""
        mean = self.lowest if self.count and self.lowest == self.highest else self.mean
        return Normalization(mean=mean, deviation=self.deviation or 1.0)


def bucket_of(values: np.ndarray, boundaries: Sequence[float]) -> np.ndarray:
    """The int64 bucket of each number: how many boundaries are not above it; -1 for NaN."""
    return np.where(np.isnan(values), -1, np.searchsorted(np.asarray(boundaries, np.float64), values, side="right"))


class Numbers(NamedTuple):
    """A numeric column: float64 values, NaN where `is_null` or `is_non_finite`, which exclude each other."""

    values: np.ndarray
    is_null: np.ndarray
    is_non_finite: np.ndarray


def parse_numbers(table: pa.Table, column: str, what: str, source: str, first_row: int) -> Numbers:
    """A column as numbers; a text is parsed, a boolean is 0 or 1.

    Raises:
        DataError: a text is no number, or the column's type holds none; `what` says what the column is read for.
    """
    raw = table.column(column)
    if pa.types.is_dictionary(raw.type):
        raw = raw.cast(raw.type.value_type)
    if is_text(raw.type):
        texts = pc.utf8_trim_whitespace(raw)
        try:
            numbers = texts.cast(pa.float64())
        except pa.ArrowInvalid as error:
            row = _first_unparsable(texts)
            raise DataError(
                f"{what}: {raw[row].as_py()!r} in {locate(table, column, row, source, first_row)} is not a number",
                "correct the value, or make its text mean null: null_values of a CSV source",
            ) from error
    elif _holds_numbers(raw.type):
        numbers = raw.cast(pa.float64(), safe=False)
    else:
        raise DataError(
            f"{what}: column {column!r} of {file_of(table, column, source)} has type {raw.type}, not a number's",
            "give a numeric column, or another kind of feature",
        )
    values = np.asarray(numbers.to_numpy(), dtype=np.float64)
    is_null = np.asarray(pc.is_null(raw))
    is_finite = np.abs(values) <= MAX_FLOAT32
    return Numbers(np.where(is_finite, values, np.nan), is_null, ~is_finite & ~is_null)


def _holds_numbers(type_: pa.DataType) -> bool:
    types = pa.types
    return any(
        is_kind(type_)
        for is_kind in (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null)
    )


def _first_unparsable(texts: pa.ChunkedArray) -> int:
    """The first row that does not parse, found by halving: one of the rows does not."""
    start, stop = 0, len(texts)
    while stop - start > 1:
        middle = (start + stop) // 2
        try:
            texts.slice(start, middle - start).cast(pa.float64())
            start = middle
        except pa.ArrowInvalid:
            stop = middle
    return start


def clip_and_log(values: np.ndarray, feature: NumericFeature, place_of: Callable[[int], str]) -> np.ndarray:
    """The values after the feature's clip and log1p; NaN stays NaN.

    Raises:
        DataError: a negative number before log1p; `place_of` says where a row lies.
    """
    if feature.clip is not None:
        values = np.clip(values, *feature.clip)
    if not feature.log1p:
        return values
    negative = np.flatnonzero(values < 0)
    if len(negative):
        row = int(negative[0])
        raise DataError(
            f"feature {feature.name!r}: {values[row]:g} in {place_of(row)} is below 0, where log1p has no use",
            f"add `clip: [0, ...]` to {feature.name!r}, or remove log1p",
        )
    logarithms: np.ndarray = np.log1p(values)
    return logarithms


def standardise(values: np.ndarray, normalization: Normalization) -> np.ndarray:
    """The values less the mean, over the deviation, kept within float32."""
    with np.errstate(over="ignore"):
        scaled = (values - normalization.mean) / normalization.deviation
    kept: np.ndarray = np.clip(scaled, -MAX_FLOAT32, MAX_FLOAT32)
    return kept


def to_inputs(values: np.ndarray, feature: NumericFeature, normalization: Normalization) -> np.ndarray:
    """The dense inputs of numbers after clip and log1p, NaN for null: null filled, standardised if it says so."""
    fill = normalization.mean
    if isinstance(feature.fill, float):
        fill = float(clip_and_log(np.array([feature.fill]), feature, lambda _: "fill")[0])
    is_null = np.isnan(values)
    filled = np.where(is_null, fill, values)
    inputs = standardise(filled, normalization) if feature.standardise else np.clip(filled, -MAX_FLOAT32, MAX_FLOAT32)
    return inputs if feature.fill is not None else np.where(is_null, 0.0, inputs)
