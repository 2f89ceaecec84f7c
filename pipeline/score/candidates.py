"""The candidate sets: read, checked, joined with the tables and encoded, in blocks of whole requests.

What belongs to a request is joined and encoded once per request, what belongs to an item once per distinct item of a
block, or item and time where a table has versions of items; only encoded values are repeated for each candidate.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ConfigError, DataError
from pipeline.preprocess.checks.contract import refuse_broken
from pipeline.preprocess.columns.text import as_codes, is_list
from pipeline.preprocess.joins.join import join_tables, open_tables, plan_columns
from pipeline.preprocess.joins.table import JoinTable
from pipeline.preprocess.raw_files.formats import check_columns, read_column_names
from pipeline.preprocess.raw_files.sources import Partition, plan_partitions, read_partition
from pipeline.preprocess.transform import FittedTransform
from pipeline.run_config import RunConfig
from pipeline.schema import Schema
from pipeline.score.config import ScoreConfig
from pipeline.shards.manifest import DENSE_COLUMN

# In memory at once: the lists of so many requests, or of one row group, and the encoded rows of so many candidates.
REQUESTS_PER_PARTITION = 20_000
CANDIDATES_PER_BLOCK = 200_000


class Block(NamedTuple):
    """Some requests with all their candidates, ordered by request and then item.

    Candidate c is `items[item[c]]` of the request `requests[request[c]]`, and row c of the encoded `features`.
    `requests` has the key columns; `items` are distinct and ascending.
    """

    requests: pa.Table
    items: pa.Array
    request: NDArray[np.int64]
    item: NDArray[np.int64]
    features: pa.Table


class Candidates:
    """The candidate sets of a run and the tables they are joined with.

    Raises:
        ConfigError: a column is both in the candidates and in a table.
        DataError: a file or a column is missing, a request stands in two rows or has no key, or there is none.
    """

    def __init__(self, config: RunConfig, section: ScoreConfig, fitted: FittedTransform) -> None:
        self.schema = config.data_schema
        self.items_column, self.item_key = section.items_column, str(self.schema.keys.item)
        self.request_key = str(self.schema.keys.request)
        self.keys = list(dict.fromkeys([self.request_key, self.schema.keys.user or self.request_key]))
        source = config.source(section.candidates)
        self.partitions = plan_partitions(source, REQUESTS_PER_PARTITION)
        self.num_requests = _check_requests(self.partitions, self.request_key, source.path)

        file = self.partitions[0].path
        names = read_column_names(source, file)
        check_columns([self.items_column], names, file)
        tables = [
            table.model_copy(update={"path": config.input_path(table.path)}) for table in config.preprocess.tables
        ]
        columns_of = {feature.name: self.schema.columns_of(feature) for feature in self.schema.features}
        needed = [*self.keys, *(column for columns in columns_of.values() for column in columns)]
        # Without times, such as those of a replay, candidates are scored now: with the latest version of everything.
        time = self.schema.keys.time if self.schema.keys.time in names else None
        plan = plan_columns([*names, self.item_key], str(file), tables, needed, time)
        of_request = [name for name in plan.log if name != self.item_key]
        self.columns = list(dict.fromkeys([*of_request, self.items_column]))
        self.request_tables: list[JoinTable] = []
        self.item_tables: list[JoinTable] = []
        for table in open_tables(tables, plan, time):
            if table.config.left_key in of_request:
                self.request_tables.append(table)
                of_request += table.columns
            else:
                self.item_tables.append(table)
        self.item_time = next((table.time_column for table in self.item_tables if table.time_column), None)
        check_columns(self.keys, of_request, file)
        is_of_request = [_is_of_request(name, columns, of_request) for name, columns in columns_of.items()]
        self.request_transform = _restrict(fitted, is_of_request)
        self.item_transform = _restrict(fitted, [not one for one in is_of_request])

    def blocks(self, partition: Partition) -> Iterator[Block]:
        """The requests of a partition in their order; at least one block, which may be empty.

        Raises:
            DataError: the items are no lists, an item is null, or a value cannot be encoded.
        """
        source = str(partition.path)
        sets = read_partition(partition, self.columns)
        lists = sets.column(self.items_column)
        lengths = _check_lists(lists, self.items_column, source, partition.first_row)
        joined = _join(sets, self.request_tables, source, partition.first_row)
        encoded = self.request_transform.encode_features(joined, source, partition.first_row)
        keys = joined.select(list(dict.fromkeys([*self.keys, *([self.item_time] if self.item_time else [])])))
        starts = np.cumsum(lengths) - lengths
        edges = np.flatnonzero(np.diff(starts // CANDIDATES_PER_BLOCK)) + 1
        for first, end in pairwise([0, *edges.tolist(), len(lengths)]):
            rows = slice(first, end)
            request = np.repeat(np.arange(end - first), lengths[rows])
            yield self._block(keys[rows], encoded[rows], _flatten(lists[rows]), request, source)

    def _block(
        self, keys: pa.Table, requests: pa.Table, items: pa.Array, request: NDArray[np.int64], source: str
    ) -> Block:
        coded = items.dictionary_encode()
        order = np.asarray(pc.array_sort_indices(coded.dictionary)).astype(np.int64)
        distinct, place = coded.dictionary.take(pa.array(order)), np.argsort(order)
        # A candidate set is a set: an item that it lists twice is one candidate.
        stride = max(len(distinct), 1)
        request, item = np.divmod(np.unique(request * stride + place[np.asarray(coded.indices)]), stride)
        what = f"the items of {source}"
        rows, item_row = self._item_rows(distinct, item, keys, request)
        encoded = self.item_transform.encode_features(_join(rows, self.item_tables, what), what)
        features = _side_by_side(
            self.schema, (self.request_transform, requests, request), (self.item_transform, encoded, item_row)
        )
        return Block(keys.select(self.keys), distinct, request, item, features)

    def _item_rows(
        self, items: pa.Array, item: NDArray[np.int64], keys: pa.Table, request: NDArray[np.int64]
    ) -> tuple[pa.Table, NDArray[np.int64]]:
        """What is joined with the tables of items, and which of these rows each candidate has."""
        if self.item_time is None:
            return pa.table({self.item_key: items}), item
        times = keys.column(self.item_time).combine_chunks().dictionary_encode("encode")
        stride = max(len(times.dictionary), 1)
        pairs, row = np.unique(item * stride + np.asarray(times.indices)[request], return_inverse=True)
        item_of, time_of = map(pa.array, np.divmod(pairs, stride))
        return pa.table({self.item_key: items.take(item_of), self.item_time: times.dictionary.take(time_of)}), row


def _join(rows: pa.Table, tables: Sequence[JoinTable], source: str, first_row: int = 0) -> pa.Table:
    joined = join_tables(rows, tables, source)
    or_else = "leave the column out, so that the latest versions are taken"
    refuse_broken(joined.rules, or_else, joined.rows, source, first_row)
    return joined.rows


def _is_of_request(feature: str, columns: list[str], of_request: list[str]) -> bool:
    """Whether all columns of a feature are a request's, and not all of them an item's."""
    found = [column for column in columns if column in of_request]
    if found and len(found) < len(columns):
        raise ConfigError(
            f"feature {feature!r} reads {found[0]!r} of the request and another column of the item, which scoring does "
            "not take together",
            "make that column in the log, or leave the feature out",
        )
    return bool(found)


def _restrict(fitted: FittedTransform, is_kept: Iterable[bool]) -> FittedTransform:
    """The transform of some of the features."""
    features = tuple(feature for feature, kept in zip(fitted.schema.features, is_kept, strict=True) if kept)
    return replace(fitted, schema=fitted.schema.model_copy(update={"features": features}))


def _side_by_side(schema: Schema, *sides: tuple[FittedTransform, pa.Table, NDArray[np.int64]]) -> pa.Table:
    """One table from encoded ones, taking the given rows of each: all sparse columns, and `dense` in schema order."""
    columns: dict[str, pa.ChunkedArray | pa.Array] = {}
    inputs: dict[str, NDArray[np.float32]] = {}
    for transform, encoded, rows in sides:
        for name in encoded.column_names:
            if name != DENSE_COLUMN:
                columns[name] = encoded[name].take(pa.array(rows))
                continue
            dense_names = transform.schema.dense_names
            matrix = encoded[name].combine_chunks().flatten().to_numpy().reshape(-1, len(dense_names))
            inputs |= zip(dense_names, matrix[rows].T, strict=True)
    if inputs:
        matrix = np.stack([inputs[name] for name in schema.dense_names], axis=1)
        columns[DENSE_COLUMN] = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])
    return pa.table(columns)


def _flatten(lists: pa.ChunkedArray) -> pa.Array:
    """The items of all lists, of a plain type."""
    items = lists.combine_chunks().flatten()
    if pa.types.is_dictionary(items.type):
        return items.dictionary_decode()
    return items.cast(pa.string()) if pa.types.is_string_view(items.type) else items


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
        is_null = np.asarray(pc.is_null(chunk.flatten(), nan_is_null=True))
        if is_null.any():
            row = first_row + int(np.searchsorted(np.cumsum(lengths), place + int(is_null.argmax()), side="right"))
            raise DataError(f"column {name!r} of {source}, row {row + 1} lists a null item", "remove it from the list")
        place += len(is_null)
    return lengths


def _check_requests(partitions: list[Partition], request_key: str, path: str) -> int:
    """The number of requests of all files. Only their keys are read, as text, so that 7 and "7" are one request."""
    parts = []
    for partition in partitions:
        codes, texts = as_codes(
            read_partition(partition, [request_key])[request_key], f"column {request_key!r} of {partition.path}"
        )
        if (codes < 0).any():
            row = partition.first_row + int((codes < 0).argmax()) + 1
            raise DataError(
                f"column {request_key!r} of {partition.path}, row {row} is null", "give every request a key"
            )
        parts.append(texts.take(pa.array(codes)))
    requests = pa.chunked_array(parts, pa.string())
    if not len(requests):
        raise DataError(f"{path} holds no row", "give a file with candidate sets")
    if pc.count_distinct(requests).as_py() < len(requests):
        counts = requests.value_counts()
        request = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"]
        ends = list(accumulate(len(part) for part in parts))
        places = []
        for row in np.flatnonzero(np.asarray(pc.equal(requests, request)))[:2].tolist():
            number = bisect_right(ends, row)
            row_in_file = partitions[number].first_row + row - ends[number] + len(parts[number])
            places.append(f"{partitions[number].path}, row {row_in_file + 1}")
        raise DataError(f"request {request} stands in {' and in '.join(places)}", "give each request one row")
    return len(requests)
