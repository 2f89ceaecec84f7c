"""Blocks of candidates, encoded: each request's and each item's features once, and which rows of them a candidate has.

A worker keeps the items that it has seen, so that an item is joined and encoded once, not once per block.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.schema import Schema
from pipeline.score.candidates.groups import Group, join_side
from pipeline.score.candidates.plan import CandidatePlan
from pipeline.score.candidates.units import plain
from pipeline.shards.manifest import DENSE_COLUMN

# Beyond these a worker forgets the items that it has seen.
MAX_KNOWN_ITEMS = 500_000


class Part(NamedTuple):
    """Encoded rows of some features, and which of them each candidate has (int64 [candidates])."""

    schema: Schema
    rows: pa.Table
    place: NDArray[np.int64]

    def take(self, candidates: NDArray[np.int64]) -> "Part":
        return self._replace(place=self.place[candidates])

    def compact(self) -> "Part":
        """Without the rows that no candidate has."""
        if not self.rows.num_columns:
            return self
        is_used = np.zeros(self.rows.num_rows, bool)
        is_used[self.place] = True
        if is_used.all():
            return self
        used = np.flatnonzero(is_used)
        number = np.cumsum(is_used) - 1
        return self._replace(rows=self.rows.take(pa.array(used)), place=number[self.place])


class Block(NamedTuple):
    """Some candidates of a group.

    The features of a candidate are those of its request and of its `item`, or of its row too if that has any. `columns`
    are the raw ones that the plan has as named, a value per candidate.
    """

    request: Part
    item: Part
    columns: dict[str, pa.ChunkedArray]

    def take(self, candidates: NDArray[np.int64]) -> "Block":
        columns = {name: column.take(pa.array(candidates)) for name, column in self.columns.items()}
        return Block(self.request.take(candidates), self.item.take(candidates), columns)


class Items(NamedTuple):
    """Distinct items, or items and times: encoded, and with the carried raw columns."""

    encoded: pa.Table
    carried: pa.Table


class ItemMemory:
    """The items that a worker has seen."""

    def __init__(self, plan: CandidatePlan) -> None:
        self.plan = plan
        self.known: pa.Array | None = None
        self.items: Items

    def look_up(self, items: pa.Array, times: pa.Array | None, source: str) -> tuple[Items, NDArray[np.int64]]:
        """Some rows, and which of them each item has, at its time where tables have versions; there is an item."""
        if times is not None:
            return self._look_up_dated(items, times, source)
        known = self.known
        if known is None or known.type != items.type or len(known) > MAX_KNOWN_ITEMS:
            known = items[:0]
        # Empty chunks are left out.
        chunks = [items] if not len(known) else [known, items]
        coded = pa.chunked_array(chunks).dictionary_encode().chunk(len(chunks) - 1)
        new = coded.dictionary[len(known) :]
        if len(known) == 0:
            self.items = self._encode({self.plan.item_key: new}, source)
        elif len(new):
            more = self._encode({self.plan.item_key: new}, source)
            both = [pa.concat_tables(pair).combine_chunks() for pair in zip(self.items, more, strict=True)]
            self.items = Items(*both)
        self.known = coded.dictionary
        return self.items, np.asarray(coded.indices).astype(np.int64)

    def _look_up_dated(self, items: pa.Array, times: pa.Array, source: str) -> tuple[Items, NDArray[np.int64]]:
        item, time = items.dictionary_encode(), times.dictionary_encode("encode")
        stride = max(len(time.dictionary), 1)
        pair = np.asarray(item.indices).astype(np.int64) * stride + np.asarray(time.indices)
        coded = pa.array(pair).dictionary_encode()
        item_of, time_of = map(pa.array, np.divmod(np.asarray(coded.dictionary), stride))
        rows = {
            self.plan.item_key: item.dictionary.take(item_of),
            str(self.plan.item_time): time.dictionary.take(time_of),
        }
        return self._encode(rows, source), np.asarray(coded.indices).astype(np.int64)

    def _encode(self, columns: dict[str, pa.Array], source: str) -> Items:
        joined = join_side(pa.table(columns), self.plan.item.tables, source)
        encoded = self.plan.item.transform.encode_features(joined, source)
        carried = {name: plain(joined[name]) for name in self.plan.item.carried}
        return Items(encoded.combine_chunks(), pa.table(carried).combine_chunks())


def make_block(plan: CandidatePlan, memory: ItemMemory, group: Group, first: int, end: int) -> Block:
    """The candidates of a group from `first` to before `end`.

    Raises:
        DataError: a value of an item or a row cannot be encoded.
    """
    shared = group.shared[first:end]
    carried = group.requests.carried
    times = None if plan.item_time is None else carried[plan.item_time].combine_chunks().take(pa.array(shared))
    items, place = memory.look_up(group.items[first:end], times, f"the items of {group.source}")
    request = Part(plan.request.transform.schema, group.requests.encoded, shared)
    item = Part(plan.item.transform.schema, items.encoded, place)

    def of_candidates(name: str) -> pa.ChunkedArray:
        if name in plan.request.carried:
            return carried[name].take(pa.array(shared))
        return items.carried[name].take(pa.array(place))

    columns = {name: of_candidates(name) for name in plan.named if name not in plan.row.carried}
    if plan.row.carried or plan.row.transform.schema.features:
        rows = {name: group.rows[name][first:end] for name in plan.row_columns}
        rows |= {name: of_candidates(name) for name in plan.row_inputs}
        joined = join_side(pa.table(rows), plan.row.tables, group.source, group.first_row + first)
        columns |= {name: plain(joined[name]) for name in plan.row.carried}
        if plan.row.transform.schema.features:
            encoded = plan.row.transform.encode_features(joined, group.source, group.first_row + first)
            own = Part(plan.row.transform.schema, encoded, np.arange(end - first))
            item = side_by_side(_schema_of(plan, item.schema, own.schema), item, own)
    return Block(request, item, columns)


def _schema_of(plan: CandidatePlan, *schemas: Schema) -> Schema:
    """The schema with the features of some, in their order."""
    names = {feature.name for schema in schemas for feature in schema.features}
    features = tuple(feature for feature in plan.schema.features if feature.name in names)
    return plan.schema.model_copy(update={"features": features})


def side_by_side(schema: Schema, *parts: Part) -> Part:
    """One part with a row per candidate: all sparse columns, and `dense` in the schema's order."""
    columns: dict[str, pa.ChunkedArray | pa.Array] = {}
    inputs: dict[str, NDArray[np.float32]] = {}
    for part in parts:
        for name in part.rows.column_names:
            if name != DENSE_COLUMN:
                columns[name] = part.rows[name].take(pa.array(part.place))
                continue
            matrix = part.rows[name].combine_chunks().flatten().to_numpy().reshape(part.rows.num_rows, -1)
            inputs |= zip(part.schema.dense_names, matrix[part.place].T, strict=True)
    if inputs:
        matrix = np.stack([inputs[name] for name in schema.dense_names], axis=1)
        columns[DENSE_COLUMN] = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])
    return Part(schema, pa.table(columns), np.arange(len(parts[0].place)))
