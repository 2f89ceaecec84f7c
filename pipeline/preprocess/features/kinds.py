"""Raw columns to the values of one feature, whatever its kind: texts, lengths and weights, or numbers.

Each kind is judged first, which finds the rows that cannot be used, and then they are refused.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.feature_kinds import (
    NULL_ROW,
    NUM_RESERVED_ROWS,
    TIME_PART_VALUES,
    BucketedFeature,
    CategoricalFeature,
    CrossedFeature,
    NumericFeature,
    SparseFeature,
    TextFeature,
    TimePartFeature,
)
from pipeline.preprocess.columns.numbers import Numbers, parse_numbers
from pipeline.preprocess.columns.text import Codes, as_codes
from pipeline.preprocess.columns.times import MICROSECONDS, judge_times, time_part
from pipeline.preprocess.columns.values import Fault, SparseValues, describe, refuse
from pipeline.preprocess.features.list_features import judge_lists
from pipeline.preprocess.features.vocabulary import HashBuckets


def read_sparse(
    table: pa.Table, feature: TextFeature, source: str, first_row: int = 0, time_column: str | None = None
) -> SparseValues:
    """The values of a feature that is looked up by text.

    `source` and `first_row` say in messages where the first row of `table` lies. `time_column` has the rows' own time,
    the key `time` of the schema; a history with times needs it.

    Raises:
        DataError: a column has the wrong type, or a value cannot be used.
    """
    values, faults = judge_sparse(table, feature, source, time_column)
    refuse(faults, table, source, first_row)
    return values


def judge_sparse(
    table: pa.Table, feature: TextFeature, source: str, time_column: str | None = None
) -> tuple[SparseValues, list[Fault]]:
    """The values as `read_sparse` gives them, and the rows that it refuses, whose values mean nothing.

    Raises:
        DataError: a column has the wrong type.
    """
    match feature:
        case CategoricalFeature():
            column = feature.source_column
            return _single(as_codes(table.column(column), describe(table, column, feature.name, source))), []
        case CrossedFeature():
            return _single(_cross(table, feature, source)), []
        case TimePartFeature():
            times, fault = judge_times(table, feature.source_column, feature.name, feature.time_unit, source)
            texts = pa.array(map(str, range(TIME_PART_VALUES[feature.part])), pa.string())
            return _single(Codes(time_part(times, feature), texts)), [fault]
        case _:
            return judge_lists(table, feature, source, time_column)


def read_dense(table: pa.Table, feature: NumericFeature | BucketedFeature, source: str, first_row: int = 0) -> Numbers:
    """The numbers of a feature, before clip and log1p.

    Raises:
        DataError: a column has the wrong type, or a value cannot be used.
    """
    numbers, faults = judge_dense(table, feature, source)
    refuse(faults, table, source, first_row)
    return numbers


def judge_dense(table: pa.Table, feature: NumericFeature | BucketedFeature, source: str) -> tuple[Numbers, list[Fault]]:
    """The numbers as `read_dense` gives them, and the rows that it refuses, whose numbers are NaN.

    Raises:
        DataError: a column has the wrong type.
    """
    if isinstance(feature, NumericFeature) and feature.since is not None:
        numbers, faults = _judge_age(table, feature, feature.since, source)
    else:
        numbers = parse_numbers(table, feature.source_column, f"feature {feature.name!r}", source)
        fix = "correct the value, or make its text mean null: null_values of a CSV source"
        faults = [Fault(numbers.is_wrong, feature.name, "is not a number", feature.source_column, fix)]
    if isinstance(feature, NumericFeature) and feature.log1p:
        values = numbers.values
        is_negative = (values if feature.clip is None else np.clip(values, *feature.clip)) < 0
        if is_negative.any():
            shown = f"{values[np.argmax(is_negative)]:g}"
            fix = f"add `clip: [0, null]` to {feature.name!r}, or remove log1p"
            rule = "is below 0, where log1p has no use"
            faults.append(Fault(is_negative, feature.name, rule, feature.source_column, fix, shown))
            numbers = numbers._replace(values=np.where(is_negative, np.nan, values))
    return numbers, faults


@dataclass(frozen=True)
class Places:
    """The table of a time part or of buckets: a value is a number from 0, and its row is that many after the first."""

    num_values: int

    @property
    def num_rows(self) -> int:
        return NUM_RESERVED_ROWS + self.num_values

    def rows_of(self, texts: pa.StringArray, hashes: np.ndarray | None = None) -> np.ndarray:
        rows: np.ndarray = NUM_RESERVED_ROWS + np.asarray(texts.cast(pa.int64()))
        return rows

    def rows_at(self, places: np.ndarray) -> np.ndarray:
        """The same of numbers, such as those of `bucket_of`; -1 is null."""
        return np.where(places < 0, NULL_ROW, NUM_RESERVED_ROWS + places)

    def fingerprint(self) -> str:
        return f"{self.num_values} places"


def fixed_encoding(owner: SparseFeature) -> HashBuckets | Places | None:
    """Which row a value has in the table of a feature, unless a vocabulary decides it."""
    if owner.fixed_rows is None:
        return None
    num_values = owner.fixed_rows - NUM_RESERVED_ROWS
    is_numbered = isinstance(owner, TimePartFeature | BucketedFeature)
    return Places(num_values) if is_numbered else HashBuckets(num_values)


def _single(codes: Codes) -> SparseValues:
    is_cut = np.zeros(len(codes.codes), bool)
    return SparseValues(codes, None, None, codes.codes < 0, is_cut, {})


def _cross(table: pa.Table, feature: CrossedFeature, source: str) -> Codes:
    """The texts of the columns side by side, with `|` between them and before each `|` or backslash of a text `\\`."""
    places: list[np.ndarray] = []
    texts = []
    combined = np.zeros(table.num_rows, np.int64)
    is_null = np.zeros(table.num_rows, bool)
    for column in feature.columns:
        codes = as_codes(table.column(column), describe(table, column, feature.name, source))
        is_null |= codes.codes < 0
        texts.append(pc.replace_substring_regex(codes.texts, r"([\\|])", r"\\\1"))
        # Numbered anew after each column, so that the product does not overflow.
        _, first, combined = np.unique(
            combined * (len(codes.texts) + 1) + codes.codes + 1, return_index=True, return_inverse=True
        )
        places.append(codes.codes)
    kept = np.flatnonzero(~is_null[first])
    parts = [own.take(pa.array(place[first[kept]])) for own, place in zip(texts, places, strict=True)]
    renumbered = np.full(len(first), -1)
    renumbered[kept] = np.arange(len(kept))
    return Codes(renumbered[combined], pc.binary_join_element_wise(*parts, "|"))


def _judge_age(table: pa.Table, feature: NumericFeature, since: str, source: str) -> tuple[Numbers, list[Fault]]:
    later, fault = judge_times(table, feature.source_column, feature.name, feature.time_unit, source)
    earlier, earlier_fault = judge_times(table, since, feature.name, feature.time_unit, source)
    is_null = later.is_null | earlier.is_null
    ages = (later.microseconds - earlier.microseconds) / MICROSECONDS[feature.unit]
    is_wrong = (later.is_wrong | earlier.is_wrong) & ~is_null
    values = np.where(is_null | is_wrong, np.nan, ages)
    return Numbers(values, is_null, np.zeros(len(values), bool), is_wrong), [fault, earlier_fault]
