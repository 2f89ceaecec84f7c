"""The raw key columns of a shard: one Arrow type per key, whatever the files of the log made of it."""

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import DataError
from pipeline.preprocess.columns.text import as_codes, is_text

# Plain integers of at most 18 digits, which int64 holds; "007" is a text.
INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"


def key_type(column: pa.ChunkedArray, is_csv: bool, what: str) -> pa.DataType | None:
    """The type that one partition asks for; None when it holds nulls only.

    Integers become int64, and so do CSV texts and floats that are all whole numbers; other types are kept.
    """
    type_ = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_nested(type_) or pa.types.is_binary(type_):
        raise DataError(f"{what} has type {type_}", "name a column of numbers, texts or times in schema.keys")
    if column.null_count == len(column):
        return None
    if pa.types.is_uint64(type_) or pa.types.is_boolean(type_) or pa.types.is_temporal(type_):
        return type_
    if pa.types.is_integer(type_) or ((is_csv or pa.types.is_floating(type_)) and _is_whole(column, what)):
        return pa.int64()
    return pa.string() if is_text(type_) else type_


def _is_whole(column: pa.ChunkedArray, what: str) -> bool:
    codes, texts = as_codes(column, what)
    used = texts.take(pa.array(codes[codes >= 0]).unique())
    return len(used) > 0 and bool(pc.all(pc.match_substring_regex(used, INTEGER)).as_py())


def unify(types: Iterable[pa.DataType | None]) -> pa.DataType:
    """The one type of a key over all partitions; text when they do not agree."""
    found = {type_ for type_ in types if type_ is not None}
    return found.pop() if len(found) == 1 else pa.string()


def to_key(column: pa.ChunkedArray, type_: pa.DataType, what: str) -> pa.ChunkedArray:
    """A raw column as the key's type."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    needs_text = pa.types.is_string(type_) or (pa.types.is_int64(type_) and not pa.types.is_integer(column.type))
    if not needs_text or (is_text(column.type) and pa.types.is_string(type_)):
        return column.cast(type_)
    codes, texts = as_codes(column, what)
    return pa.chunked_array([texts.take(pa.array(codes, mask=codes < 0))]).cast(type_)
