"""Groups of candidates: some whole requests with what they share joined and encoded, ready to be scored in blocks."""

from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.preprocess.checks.contract import refuse_broken
from pipeline.preprocess.columns.text import is_list
from pipeline.preprocess.joins.join import join_tables
from pipeline.preprocess.joins.table import JoinTable
from pipeline.score.candidates.plan import CandidatePlan
from pipeline.score.candidates.requests import read_requests
from pipeline.score.candidates.units import Unit, cut_at, plain, read_segment

# Whole requests are put together up to so many candidates, and so many are encoded and predicted at a time.
CANDIDATES_PER_BLOCK = 200_000


class Requests(NamedTuple):
    """What candidates share: the carried raw columns and the encoded features of each request, or request and time."""

    carried: pa.Table
    encoded: pa.Table


class Group(NamedTuple):
    """Some whole requests with all their candidates, those of one request one after the other.

    Candidate c is `items[c]`; it is of the request `request[c]`, numbered from 0, and has what row `shared[c]` of
    `requests` has. `rows` are the raw columns of its own, which candidates of lists have none of, and
    `first_row` is the place of the first one in `source`.
    """

    requests: Requests
    request: NDArray[np.int64]
    shared: NDArray[np.int64]
    items: pa.Array
    rows: pa.Table
    source: str
    first_row: int


def read_groups(plan: CandidatePlan, unit: Unit) -> Iterator[Group]:
    """The requests of a unit in their order; at least one group, which may be empty.

    Raises:
        DataError: the items are no lists, an item is null, or a value cannot be encoded.
    """
    return _lists(plan, unit) if plan.has_lists else _rows(plan, unit)


def join_side(rows: pa.Table, tables: Sequence[JoinTable], source: str, first_row: int = 0) -> pa.Table:
    """The rows with the columns of the tables.

    Raises:
        DataError: a time that decides on a version is none.
    """
    joined = join_tables(rows, tables, source)
    or_else = "leave the column out, so that the latest versions are taken"
    refuse_broken(joined.rules, or_else, joined.rows, source, first_row)
    return joined.rows


def _requests(plan: CandidatePlan, rows: pa.Table, source: str, first_row: int) -> Requests:
    joined = join_side(rows, plan.request.tables, source, first_row)
    encoded = plan.request.transform.encode_features(joined, source, first_row)
    carried = {name: plain(joined[name]).combine_chunks() for name in plan.request.carried}
    return Requests(pa.table(carried), encoded.combine_chunks())


# --- a row per request, with a list


def _lists(plan: CandidatePlan, unit: Unit) -> Iterator[Group]:
    assert plan.items_column is not None
    for segment in unit.segments:
        first_row = segment.first_row
        for table in read_segment(segment, plan.columns, plan.items_column):
            lists = table[plan.items_column]
            lengths = _check_lists(lists, plan.items_column, unit.source, first_row)
            requests = _requests(plan, table, unit.source, first_row)
            for first, end in pairwise(cut_at(lengths, CANDIDATES_PER_BLOCK)):
                request = np.repeat(np.arange(end - first), lengths[first:end])
                shared = Requests(requests.carried[first:end], requests.encoded[first:end])
                items = plain(pa.chunked_array([chunk.flatten() for chunk in lists[first:end].chunks] or [[]]))
                items = items.combine_chunks()
                yield Group(shared, request, request, items, pa.table({}), unit.source, first_row + first)
            first_row += table.num_rows


def _check_lists(lists: pa.ChunkedArray, name: str, source: str, first_row: int) -> NDArray[np.int64]:
    """The number of items of each request: 0 for a null list."""
    if not is_list(lists.type) or pa.types.is_nested(lists.type.value_type):
        raise DataError(
            f"column {name!r} of {source} has type {lists.type}, not lists of items",
            "give one row per request with a list of its items, in a Parquet, Arrow or JSON-lines file",
        )
    lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0)).astype(np.int64)
    place = 0
    for chunk in lists.chunks:
        items = chunk.flatten()
        null = _first_null(items)
        if null is not None:
            row = first_row + int(np.searchsorted(np.cumsum(lengths), place + null, side="right"))
            raise DataError(f"column {name!r} of {source}, row {row + 1} lists a null item", "remove it from the list")
        place += len(items)
    return lengths


def _first_null(items: pa.Array) -> int | None:
    if not items.null_count and not pa.types.is_floating(items.type):
        return None
    is_null = np.asarray(pc.is_null(items, nan_is_null=True))
    return int(is_null.argmax()) if is_null.any() else None


# --- a row per candidate


def _rows(plan: CandidatePlan, unit: Unit) -> Iterator[Group]:
    for table, lengths, first_row in _whole_requests(plan, unit):
        items = _check_items(table[plan.item_key], plan.item_key, unit.source, first_row)
        request = np.repeat(np.arange(len(lengths)), lengths)
        shared, starts = _shared_rows(plan, table, request)
        # Not all rows are there, so that a row of them is none of the file.
        of_requests = f"the requests of {unit.source} from row {first_row + 1} on"
        requests = _requests(plan, table.select(plan.request_columns).take(pa.array(starts)), of_requests, 0)
        rows = pa.table({name: plain(table[name]) for name in plan.row_columns})
        yield Group(requests, request, shared, items, rows, unit.source, first_row)


def _check_items(items: pa.ChunkedArray, name: str, source: str, first_row: int) -> pa.Array:
    if pa.types.is_nested(items.type):
        raise DataError(
            f"column {name!r} of {source} has type {items.type}, not one item per row",
            "name the column of lists as score.items_column",
        )
    whole = plain(items).combine_chunks()
    null = _first_null(whole)
    if null is not None:
        raise DataError(f"column {name!r} of {source}, row {first_row + null + 1} is null", "remove that row")
    return whole


def _shared_rows(
    plan: CandidatePlan, table: pa.Table, request: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which rows share the columns of a request, numbered, and the first one of each number."""
    is_new = np.append(np.ones(min(len(request), 1), bool), request[1:] != request[:-1])
    for name in plan.request_columns:
        if name != plan.request_key:
            codes = table[name].combine_chunks().dictionary_encode("encode")
            indices = np.asarray((codes.indices if pa.types.is_dictionary(codes.type) else codes).fill_null(-1))
            is_new[1:] |= indices[1:] != indices[:-1]
    return np.cumsum(is_new) - 1, np.flatnonzero(is_new)


def _whole_requests(plan: CandidatePlan, unit: Unit) -> Iterator[tuple[pa.Table, NDArray[np.int64], int]]:
    """The rows of some requests, how many each has, and the place of the first one in the file."""
    tables: Iterator[pa.Table] = chain.from_iterable(read_segment(segment, plan.columns) for segment in unit.segments)
    first_row = unit.segments[0].first_row
    if unit.regrouped_from:
        whole, lengths = _gather(pa.concat_tables(tables), plan.request_key)
        tables = iter([whole])
    else:
        assert unit.lengths is not None
        lengths = unit.lengths
    stream = _Stream(tables, unit.source)
    for first, end in pairwise(cut_at(lengths, CANDIDATES_PER_BLOCK)):
        table = stream.take(int(lengths[first:end].sum()))
        yield table, lengths[first:end], first_row
        first_row += table.num_rows


def _gather(rows: pa.Table, request_key: str) -> tuple[pa.Table, NDArray[np.int64]]:
    """The rows of each request one after the other, in the order of their first ones, and how many each has."""
    codes, texts = read_requests(rows, request_key, "", 0)
    number = np.asarray(texts.dictionary_encode().indices)[codes]
    return rows.take(pa.array(np.argsort(number, kind="stable"))), np.bincount(number)


class _Stream:
    """Rows that come in tables of some size, taken as many at a time as are wanted."""

    def __init__(self, tables: Iterator[pa.Table], source: str) -> None:
        self.tables = tables
        self.source = source
        self.left: pa.Table | None = None

    def take(self, num_rows: int) -> pa.Table:
        parts = [] if self.left is None else [self.left]
        num_left = sum(part.num_rows for part in parts)
        while num_left < num_rows:
            parts.append(next(self.tables))
            num_left += parts[-1].num_rows
        try:
            whole = pa.concat_tables(parts, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(
                f"{self.source} has columns of different types in its parts: {error}", "write the file as Parquet"
            ) from error
        self.left = whole[num_rows:]
        return whole[:num_rows]
