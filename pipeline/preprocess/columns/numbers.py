"""Columns as numbers: those of any numeric type, and texts that are parsed.

A value that is no finite float32 (NaN, infinity, 1e300) counts as null.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import DataError
from pipeline.preprocess.columns.text import is_text
from pipeline.preprocess.raw_files.sources import file_of

MAX_FLOAT32 = float(np.finfo(np.float32).max)
# Characters of no number and no time.
FOREIGN = r"[^-+.:0-9eEinfatyINFATYZ ]"


class Numbers(NamedTuple):
    """A column as float64 values, NaN where `is_null`, `is_non_finite` or `is_wrong` (bool), which exclude each other.

    Wrong is a text that is no number.
    """

    values: np.ndarray
    is_null: np.ndarray
    is_non_finite: np.ndarray
    is_wrong: np.ndarray


def parse_numbers(table: pa.Table, column: str, what: str, source: str) -> Numbers:
    """A column as numbers; a boolean is 0 or 1.

    Raises:
        DataError: the column's type holds no number; `what` says what the column is read for.
    """
    raw = table.column(column)
    if pa.types.is_dictionary(raw.type):
        raw = raw.cast(raw.type.value_type)
    is_wrong = np.zeros(len(raw), bool)
    if is_text(raw.type):
        is_wrong = np.asarray(unparsable(raw, pa.float64()))
        texts = pc.if_else(pa.array(is_wrong), pa.scalar(None, raw.type), raw) if is_wrong.any() else raw
        numbers = pc.utf8_trim_whitespace(texts).cast(pa.float64())
    elif _holds_numbers(raw.type):
        numbers = raw.cast(pa.float64(), safe=False)
    else:
        raise DataError(
            f"{what}: column {column!r} of {file_of(table, column, source)} has type {raw.type}, not a number's",
            "give a numeric column, or another kind of feature",
        )
    values = np.asarray(numbers.to_numpy(), dtype=np.float64)
    is_null = np.asarray(pc.is_null(raw))
    is_non_finite = ~((np.abs(values) <= MAX_FLOAT32) | is_null | is_wrong)
    if is_non_finite.any():
        values = np.where(is_non_finite, np.nan, values)
    return Numbers(values, is_null, is_non_finite, is_wrong)


def _holds_numbers(type_: pa.DataType) -> bool:
    types = pa.types
    return any(
        is_kind(type_)
        for is_kind in (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null)
    )


def numeric_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of texts with null in place of those that are no number, which would end the reading of the others."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return pc.if_else(unparsable(column, pa.float64()), pa.scalar(None, column.type), column)


def unparsable(column: pa.ChunkedArray, *types: pa.DataType) -> pa.Array:
    """Which rows (bool) of a column of texts are not null and parse as none of the types, blanks around them aside."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    texts = pc.utf8_trim_whitespace(column).combine_chunks()
    if _parses(texts, types[0]):
        return pa.array(np.zeros(len(texts), bool))
    encoded = texts.dictionary_encode()
    distinct = encoded.dictionary
    is_bad = np.append(np.asarray(pc.match_substring_regex(distinct, FOREIGN)), False)  # the last is that of null
    ranges = [np.flatnonzero(~is_bad[:-1])]
    while ranges:
        places = ranges.pop()
        if any(_parses(distinct.take(pa.array(places)), type_) for type_ in types):
            continue
        if len(places) == 1:
            is_bad[places] = True
        else:
            ranges += np.array_split(places, 2)
    return pa.array(is_bad[np.asarray(encoded.indices.fill_null(len(distinct)))])


def _parses(texts: pa.Array, type_: pa.DataType) -> bool:
    try:
        texts.cast(type_)
    except pa.ArrowInvalid:
        return False
    return True
