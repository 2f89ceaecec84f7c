"""The features with several values per row: lists, lists with weights, and histories whose events have times."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.feature_kinds import HistoryFeature, ListFeature, WeightedMultiValuedFeature
from pipeline.preprocess.columns.lists import Lists, cut, is_empty_at, pair, read_lists
from pipeline.preprocess.columns.numbers import parse_numbers
from pipeline.preprocess.columns.text import Codes, as_codes, is_text
from pipeline.preprocess.columns.times import judge_times, parse_times, time_fault
from pipeline.preprocess.columns.values import Fault, SparseValues, describe
from pipeline.preprocess.raw_files.sources import file_of

# The sum of a row's weights stays far within float32.
MAX_WEIGHT = 1e30


def judge_lists(
    table: pa.Table, feature: ListFeature, source: str, time_column: str | None
) -> tuple[SparseValues, list[Fault]]:
    """The values of a feature with lists, cut to `max_length`, and the rows that cannot be used."""
    if isinstance(feature, WeightedMultiValuedFeature):
        return _judge_weighted(table, feature, source)
    if isinstance(feature, HistoryFeature) and feature.times is not None:
        return _judge_timed(table, feature, feature.times, source, time_column)
    lists = read_lists(table, feature.source_column, feature.name, feature.delimiter, source)
    kept, places = cut(lists.lengths, lists.starts, feature.max_length)
    codes = lists.codes_at(places, describe(table, feature.source_column, feature.name, source))
    return SparseValues(codes, kept, None, lists.is_null, lists.lengths > feature.max_length, {}), []


class _Parsable(NamedTuple):
    """Values to parse once each, blank texts null, and which of them stands where, -1 for null."""

    values: pa.ChunkedArray | pa.Array
    places: np.ndarray

    @classmethod
    def at(cls, lists: Lists, places: np.ndarray) -> "_Parsable":
        """Those at some places of the flat values, null at -1."""
        if isinstance(lists.flat, Codes):
            return cls(_blank_to_null(lists.flat.texts), np.append(lists.flat.codes, -1)[places])
        return cls(_blank_to_null(lists.flat), places)

    def first(self, is_chosen: np.ndarray) -> str | None:
        """How the first chosen value was written, for messages."""
        return repr(self.values[int(self.places[np.argmax(is_chosen)])].as_py()) if is_chosen.any() else None


def _blank_to_null(values: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if not is_text(values.type):
        return values
    texts = pc.utf8_trim_whitespace(values)
    return pc.if_else(pc.equal(pc.binary_length(texts), 0), pa.scalar(None, texts.type), texts)


def _parse_weights(raw: _Parsable, column: str, feature: str, source: str) -> tuple[np.ndarray, np.ndarray]:
    """The float64 weights, 1 for null, and which of them are wrong."""
    what = f"the weights of feature {feature!r}"
    values, is_null, *_ = parse_numbers(pa.table({column: raw.values}), column, what, source)
    is_wrong = ~is_null & ~((values >= 0) & (values <= MAX_WEIGHT))
    weights = np.where(is_null | is_wrong, 1.0, values)
    return np.append(weights, 1.0)[raw.places], np.append(is_wrong, False)[raw.places]


def _judge_weighted(
    table: pa.Table, feature: WeightedMultiValuedFeature, source: str
) -> tuple[SparseValues, list[Fault]]:
    column = feature.weights or feature.source_column
    what = describe(table, feature.source_column, feature.name, source)
    faults = []
    if feature.weights is None:
        lists = read_lists(table, column, feature.name, feature.delimiter, source)
        places, rows = lists.places()
        codes, is_empty, raw = _split_weights(lists.codes_at(places, what), feature.weight_delimiter)
    else:
        lists = read_lists(table, feature.source_column, feature.name, feature.delimiter, source, keep_empty=True)
        other = read_lists(table, column, feature.name, feature.delimiter, source, keep_empty=True)
        places, rows, other_places, is_uneven = pair(lists, other)
        codes, is_empty = lists.codes_at(places, what), is_empty_at(lists, places)
        raw = _Parsable.at(other, other_places)
        faults.append(_uneven(is_uneven, feature.name, column, "weights"))
    weights, is_wrong = _parse_weights(raw, column, feature.name, file_of(table, column, source))
    rule, fix = "is no weight, a finite number of at least 0", "correct the value; a value without a weight has 1"
    wrong_rows = _rows_with(is_wrong, rows, table.num_rows)
    faults.append(Fault(wrong_rows, feature.name, rule, column, fix, raw.first(is_wrong)))
    lengths, chosen, is_cut = _first_of_each(np.flatnonzero(~is_empty), rows, table.num_rows, feature.max_length)
    kept = Codes(codes.codes[chosen], codes.texts)
    return SparseValues(kept, lengths, weights[chosen].astype(np.float32), lists.is_null, is_cut, {}), faults


def _split_weights(pieces: Codes, delimiter: str) -> tuple[Codes, np.ndarray, _Parsable]:
    """The id of each piece, whether it is empty, and the weight, which the last delimiter separates."""
    split = pc.split_pattern(pieces.texts, delimiter, max_splits=1, reverse=True)
    offsets, parts = split.offsets.to_numpy(), pc.utf8_trim_whitespace(split.flatten())
    ids = as_codes(parts.take(pa.array(offsets[:-1])), "ids")
    codes = np.append(ids.codes, -1)[pieces.codes]
    is_empty = np.append(np.asarray(pc.equal(pc.binary_length(ids.texts), 0), bool), False)[codes]
    weights = parts.take(pa.array(offsets[1:] - 1, mask=np.diff(offsets) == 1))
    return Codes(codes, ids.texts), is_empty, _Parsable(_blank_to_null(weights), pieces.codes)


def _judge_timed(
    table: pa.Table, feature: HistoryFeature, times: str, source: str, time_column: str | None
) -> tuple[SparseValues, list[Fault]]:
    if time_column is None:
        raise ValueError(f"feature {feature.name!r} has times, and the column with the rows' own time is not given")
    lists = read_lists(table, feature.source_column, feature.name, feature.delimiter, source, keep_empty=True)
    other = read_lists(table, times, feature.name, feature.delimiter, source, keep_empty=True)
    places, rows, other_places, is_uneven = pair(lists, other)
    raw = _Parsable.at(other, other_places)
    parsed = parse_times(raw.values, feature.time_unit, describe(table, times, feature.name, source))
    microseconds = np.append(parsed.microseconds, 0)[raw.places]
    is_wrong = np.append(parsed.is_wrong, False)[raw.places]
    own, fault = judge_times(table, time_column, feature.name, feature.time_unit, source)
    faults = [
        fault,
        _uneven(is_uneven, feature.name, times, "times"),
        time_fault(_rows_with(is_wrong, rows, table.num_rows), feature.name, times, raw.first(is_wrong)),
    ]
    is_event = ~is_empty_at(lists, places)
    is_undated = is_event & (np.append(parsed.is_null, True)[raw.places] | own.is_null[rows])
    is_future = is_event & ~is_undated & (microseconds >= own.microseconds[rows])
    past = np.flatnonzero(is_event & ~is_undated & ~is_future)
    # Stable: events of one time stay in their order.
    past = past[np.lexsort((-microseconds[past], rows[past]))]
    lengths, chosen, is_cut = _first_of_each(past, rows, table.num_rows, feature.max_length)
    counts = {
        "future_events": np.bincount(rows[is_future], minlength=table.num_rows),
        "undated_events": np.bincount(rows[is_undated], minlength=table.num_rows),
    }
    codes = lists.codes_at(places[chosen], describe(table, feature.source_column, feature.name, source))
    return SparseValues(codes, lengths, None, lists.is_null, is_cut, counts), faults


def _uneven(is_uneven: np.ndarray, feature: str, column: str, what: str) -> Fault:
    rule = f"has another number of {what} than there are ids"
    return Fault(is_uneven, feature, rule, column, f"give one of its {what} for each id, or a null list")


def _rows_with(is_chosen: np.ndarray, rows: np.ndarray, num_rows: int) -> np.ndarray:
    """Which rows have a value that is chosen."""
    found = np.zeros(num_rows, bool)
    found[rows[is_chosen]] = True
    return found


def _first_of_each(
    chosen: np.ndarray, rows: np.ndarray, num_rows: int, max_length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of chosen values in the order of their rows, the first of each row: how many, which, and which rows have more."""
    lengths = np.bincount(rows[chosen], minlength=num_rows)
    kept, places = cut(lengths, np.cumsum(lengths) - lengths, max_length)
    return kept, chosen[places], lengths > max_length
