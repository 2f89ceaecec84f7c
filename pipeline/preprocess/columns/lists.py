"""Columns of lists: list columns or split texts, lists that belong together value by value, and cutting them."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import DataError
from pipeline.preprocess.columns.text import Codes, as_codes, is_list
from pipeline.preprocess.columns.values import describe


class Lists(NamedTuple):
    """Row r has the `lengths[r]` values of `flat` from place `starts[r]` on; rows may share values."""

    flat: pa.ChunkedArray | Codes
    lengths: np.ndarray
    starts: np.ndarray
    is_null: np.ndarray

    def codes_at(self, places: np.ndarray, what: str) -> Codes:
        """The values at some places of `flat`."""
        if isinstance(self.flat, Codes):
            return Codes(self.flat.codes[places], self.flat.texts)
        # Texts are made of no more values than asked for: a row may list millions.
        return as_codes(self.flat.take(pa.array(places)), what)

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """The place of every value of every row, one row after the other, and its row."""
        _, places = cut(self.lengths, self.starts, np.iinfo(np.int64).max)
        return places, np.repeat(np.arange(len(self.lengths)), self.lengths)


def read_lists(
    table: pa.Table, column: str, feature: str, delimiter: str | None, source: str, *, keep_empty: bool = False
) -> Lists:
    """The lists of a column; a text is split at `delimiter`, its empty pieces dropped unless `keep_empty`.

    A blank text has no pieces.

    Raises:
        DataError: the column holds no lists, and there is no delimiter to split texts at.
    """
    raw = table.column(column)
    is_null = np.asarray(pc.is_null(raw))
    if is_list(raw.type):
        flat = pa.chunked_array([chunk.flatten() for chunk in raw.chunks], raw.type.value_type)
        lengths = np.asarray(pc.fill_null(pc.list_value_length(raw), 0)).astype(np.int64)
        return Lists(flat, lengths, np.cumsum(lengths) - lengths, is_null)
    what = describe(table, column, feature, source)
    if delimiter is None:
        raise DataError(
            f"{what} has type {raw.type}, not a list",
            f"add the `delimiter` that separates the values of {feature!r}, or give a list column",
        )
    return Lists(*_split_texts(as_codes(raw, what), delimiter, keep_empty), is_null)


def _split_texts(rows: Codes, delimiter: str, keep_empty: bool) -> tuple[Codes, np.ndarray, np.ndarray]:
    """The pieces of each distinct text, and per row the number of its pieces and the place of the first."""
    split = pc.split_pattern(rows.texts, delimiter)
    pieces = pc.utf8_trim_whitespace(split.flatten())
    offsets = split.offsets.to_numpy()
    is_piece = np.asarray(pc.greater(pc.binary_length(pieces), 0))
    if keep_empty:
        is_blank = np.asarray(pc.equal(pc.binary_length(pc.utf8_trim_whitespace(rows.texts)), 0), bool)
        is_piece = np.repeat(~is_blank, np.diff(offsets))
    bounds = np.append(0, np.cumsum(is_piece))[offsets]
    lengths, starts = np.append(np.diff(bounds), 0), np.append(bounds[:-1], 0)
    return as_codes(pieces.filter(pa.array(is_piece)), "pieces"), lengths[rows.codes], starts[rows.codes]


def cut(lengths: np.ndarray, starts: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Of lists in a flat array, how many values of each are kept, and the places of those."""
    kept = np.minimum(lengths, max_length)
    return kept, np.repeat(starts - (np.cumsum(kept) - kept), kept) + np.arange(kept.sum())


class Paired(NamedTuple):
    """The values of two columns of lists that belong together: their places in either, -1 for none in the second.

    A row is `is_uneven` when its lists differ in length; it has no values then. A null list in the second column lacks
    them all.
    """

    places: np.ndarray
    rows: np.ndarray
    other_places: np.ndarray
    is_uneven: np.ndarray


def pair(lists: Lists, other: Lists) -> Paired:
    is_uneven = (lists.lengths != other.lengths) & ~other.is_null
    lists = lists._replace(lengths=np.where(is_uneven, 0, lists.lengths))
    places, rows = lists.places()
    other_places = np.where(other.is_null[rows], -1, places - lists.starts[rows] + other.starts[rows])
    return Paired(places, rows, other_places, is_uneven)


def is_empty_at(lists: Lists, places: np.ndarray) -> np.ndarray:
    """Which of some values are empty pieces of a split text."""
    if not isinstance(lists.flat, Codes):
        return np.zeros(len(places), bool)
    is_empty = np.asarray(pc.equal(pc.binary_length(lists.flat.texts), 0), bool)
    of_value: np.ndarray = np.append(is_empty, False)[lists.flat.codes[places]]
    return of_value
