"""The text of a raw value: one rule for vocabularies, hashes, joins and labels, so that file formats never matter.

The integer 3, the number 3.0 and the texts "3" and "3.0" are all "3"; a boolean is "true" or "false"; NaN is null.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import DataError

# Whole numbers up to here are exact in float64.
MAX_EXACT_INTEGER = 2.0**53


class Codes(NamedTuple):
    """A column as int32 places in its distinct texts: `texts[codes[row]]`, or null where `codes[row]` is -1."""

    codes: np.ndarray
    texts: pa.StringArray


def is_list(type_: pa.DataType) -> bool:
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_))


def is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


def as_codes(column: pa.Array | pa.ChunkedArray, what: str) -> Codes:
    """The texts of a column of single values; a text may stand at several places of `texts`.

    `what` names the column in messages.

    Raises:
        DataError: the column holds lists or other nested values.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    if chunks and pa.types.is_dictionary(column.type):
        encoded = pa.chunked_array(chunks).unify_dictionaries()
        _plain(encoded.chunk(0).dictionary, what)
    else:
        plain = pa.chunked_array([_plain(chunk, what) for chunk in chunks], None if chunks else pa.string())
        if pa.types.is_null(plain.type) or not len(plain):
            return Codes(np.full(len(plain), -1, np.int32), pa.array([], pa.string()))
        encoded = plain.dictionary_encode()
    texts = as_text(encoded.chunk(encoded.num_chunks - 1).dictionary, what)
    codes = _join([_places(chunk.indices) for chunk in encoded.chunks])
    if texts.null_count:  # NaN is a distinct value, and its text is null
        codes = np.append(np.where(pc.is_null(texts), -1, np.arange(len(texts))), -1).astype(np.int32)[codes]
        texts = texts.fill_null("")
    return Codes(codes, texts)


def _places(indices: pa.Array) -> np.ndarray:
    return np.asarray(indices.fill_null(-1) if indices.null_count else indices, dtype=np.int32)


def _join(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def as_text(values: pa.Array, what: str) -> pa.StringArray:
    """The text of each value, null for null.

    Raises:
        DataError: the values are lists or otherwise nested, or bytes that are not UTF-8.
    """
    values = _plain(values, what)
    if pa.types.is_floating(values.type):
        return _float_text(values)
    try:
        texts = values.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{what} of type {values.type} has no text: {error}", "convert the column to text") from error
    if pa.types.is_boolean(values.type) or pa.types.is_integer(values.type):
        return texts
    if not pc.any(pc.match_substring_regex(texts, r"^(-?[0-9]+\.0+|-0|True|TRUE|False|FALSE)$")).as_py():
        return texts
    texts = pc.replace_substring_regex(texts, r"^(-?[0-9]+)\.0+$", r"\1")
    texts = pc.replace_substring_regex(texts, "^(True|TRUE)$", "true")
    texts = pc.replace_substring_regex(texts, "^(False|FALSE)$", "false")
    return pc.replace_substring_regex(texts, "^-0$", "0")


def _float_text(values: pa.Array) -> pa.StringArray:
    numbers = values.cast(pa.float64())
    whole = pc.and_(pc.equal(numbers, pc.trunc(numbers)), pc.less_equal(pc.abs(numbers), MAX_EXACT_INTEGER))
    integers = pc.if_else(whole, numbers, 0.0).cast(pa.int64()).cast(pa.string())
    return pc.if_else(
        pc.is_nan(values), pa.scalar(None, pa.string()), pc.if_else(whole, integers, values.cast(pa.string()))
    )


def _plain(values: pa.Array, what: str) -> pa.Array:
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_nested(values.type):
        raise DataError(
            f"{what} has type {values.type}, and one value per row is needed",
            "give a column of single values, or declare the feature as multi_valued or history",
        )
    if pa.types.is_string_view(values.type):
        return values.cast(pa.string())
    return values.cast(pa.float32()) if pa.types.is_float16(values.type) else values
