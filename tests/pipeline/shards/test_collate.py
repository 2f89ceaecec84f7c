"""Tables to batches against a naive reference: bags, padding, null labels, weights, and ids outside their table."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.batch import Batch
from pipeline.config import build
from pipeline.errors import ArtifactError
from pipeline.schema import Schema
from pipeline.shards.collate import Layout, collate
from pipeline.shards.manifest import shard_schema

NUM_EMBEDDINGS = 2**40
NULL = None


@dataclass
class Rows:
    """Rows as Python lists, and the layout that their table has."""

    single_valued: list[bool]
    is_wide: list[bool]  # int64 ids
    bags: list[list[list[int]]]  # feature, row, ids
    dense: list[list[float]]
    labels: list[list[float | None]]
    weights: list[float] | None = None

    @property
    def layout(self) -> Layout:
        return Layout(
            tuple(f"f{place}" for place in range(len(self.bags))),
            tuple(self.single_valued),
            tuple(NUM_EMBEDDINGS if wide else 2**31 for wide in self.is_wide),
            len(self.dense[0]) if self.dense else 0,
            len(self.labels[0]) if self.labels else 1,
        )

    def table(self) -> pa.Table:
        columns: dict[str, pa.Array] = {}
        for place, (single, wide, bags) in enumerate(zip(self.single_valued, self.is_wide, self.bags, strict=True)):
            type_ = pa.int64() if wide else pa.int32()
            columns[f"sparse_f{place}"] = (
                pa.array([bag[0] for bag in bags], type_) if single else pa.array(bags, pa.list_(type_))
            )
        if self.layout.num_dense:
            columns["dense"] = pa.array(self.dense, pa.list_(pa.float32(), self.layout.num_dense))
        columns["labels"] = pa.array(self.labels, pa.list_(pa.float32(), self.layout.num_tasks))
        if self.weights is not None:
            columns["weight"] = pa.array(self.weights, pa.float32())
        return pa.table(columns)


@st.composite
def rows(draw: st.DrawFn, min_rows: int = 1) -> Rows:
    num_rows = draw(st.integers(min_rows, 7))
    num_features, num_dense, num_tasks = draw(st.integers(0, 4)), draw(st.integers(0, 3)), draw(st.integers(1, 3))
    single = draw(st.lists(st.booleans(), min_size=num_features, max_size=num_features))
    wide = draw(st.lists(st.booleans(), min_size=num_features, max_size=num_features))

    def values(value: st.SearchStrategy[Any], min_size: int, max_size: int) -> list[list[Any]]:
        one = st.lists(value, min_size=min_size, max_size=max_size)
        return draw(st.lists(one, min_size=num_rows, max_size=num_rows))

    bags = [
        values(st.integers(0, (NUM_EMBEDDINGS if is_wide else 2**31) - 1), int(is_single), 1 if is_single else 4)
        for is_single, is_wide in zip(single, wide, strict=True)
    ]
    dense = values(st.floats(-1e6, 1e6, width=32), num_dense, num_dense)
    labels = values(st.sampled_from([NULL, 0.0, 1.0, 3.5]), num_tasks, num_tasks)
    weight = st.floats(0, 1e6, width=32)
    weights = draw(st.none() | st.lists(weight, min_size=num_rows, max_size=num_rows))
    return Rows(single, wide, bags, dense, labels, weights)


def bags_of(batch: Batch, layout: Layout) -> list[list[list[int]]]:
    """The ids of each feature and row."""
    if not layout.features:
        return []
    assert batch.sparse.keys() == list(layout.features)
    return [
        [bag.tolist() for bag in torch.split(batch.sparse[name].values(), batch.sparse[name].lengths().tolist())]
        for name in layout.features
    ]


def with_nan(labels: list[list[float | None]]) -> Tensor:
    return torch.tensor([[math.nan if label is None else label for label in row] for row in labels])


def assert_holds(batch: Batch, expected: Rows, num_padding: int) -> None:
    layout, num_rows = expected.layout, len(expected.labels)
    assert bags_of(batch, layout) == [[*bags, *[[]] * num_padding] for bags in expected.bags]
    assert batch.sparse.values().dtype == torch.int64
    assert batch.sparse.lengths().dtype == torch.int32
    dense = torch.tensor(expected.dense).reshape(num_rows, layout.num_dense)
    assert torch.equal(batch.dense, torch.cat([dense, torch.zeros(num_padding, layout.num_dense)]))
    labels = torch.cat([with_nan(expected.labels), torch.full((num_padding, layout.num_tasks), math.nan)])
    torch.testing.assert_close(batch.labels, labels, rtol=0, atol=0, equal_nan=True)
    assert batch.weights.tolist() == [*(expected.weights or [1.0] * num_rows), *[0.0] * num_padding]
    assert {part.dtype for part in (batch.dense, batch.labels, batch.weights)} == {torch.float32}


@settings(max_examples=150)
@given(rows(), st.integers(0, 4))
def test_a_batch_holds_the_rows_of_the_table_and_padding_after_them(given_rows: Rows, num_padding: int) -> None:
    num_rows = len(given_rows.labels)
    batch = collate(given_rows.table(), given_rows.layout, num_rows + num_padding, position=(2, 5))
    assert_holds(batch, given_rows, num_padding)
    assert batch.position == (2, 5)


@settings(max_examples=150)
@given(rows(min_rows=2), st.data())
def test_slices_and_pieces_of_a_table_give_their_own_rows(given_rows: Rows, data: st.DataObject) -> None:
    """As the reader gives them: slices of windows, one after the other."""
    whole, num_rows = given_rows.table(), len(given_rows.labels)
    bounds = st.integers(0, num_rows)
    pieces = [sorted(piece) for piece in data.draw(st.lists(st.tuples(bounds, bounds), min_size=1, max_size=3))]
    chosen = [row for first, end in pieces for row in range(first, end)]
    expected = Rows(
        given_rows.single_valued,
        given_rows.is_wide,
        [[bags[row] for row in chosen] for bags in given_rows.bags],
        [given_rows.dense[row] for row in chosen],
        [given_rows.labels[row] for row in chosen],
        given_rows.weights and [given_rows.weights[row] for row in chosen],
    )
    table = pa.concat_tables([whole.slice(first, end - first) for first, end in pieces])
    batch = collate(table, given_rows.layout, len(chosen) + 1)
    if chosen:
        assert_holds(batch, expected, num_padding=1)
    else:
        assert batch.weights.tolist() == [0.0]


MIXED = Rows(
    [True, False],
    [False, True],
    [[[4], [5], [6]], [[7, 8], [], [NUM_EMBEDDINGS - 1]]],
    [[1.0], [2.0], [3.0]],
    [[1.0, NULL], [NULL, 0.0], [0.0, 2.0]],
    [0.5, 0.0, 3.0],
)


def test_a_batch_of_three_rows_by_hand() -> None:
    batch = collate(MIXED.table(), MIXED.layout, 4)
    assert batch.sparse.keys() == ["f0", "f1"]
    assert batch.sparse.values().tolist() == [4, 5, 6, 7, 8, NUM_EMBEDDINGS - 1]
    assert batch.sparse.lengths().tolist() == [1, 1, 1, 0, 2, 0, 1, 0]
    assert batch.sparse.stride() == 4
    assert batch.dense.tolist() == [[1.0], [2.0], [3.0], [0.0]]
    assert batch.labels.isnan().tolist() == [[False, True], [True, False], [False, False], [True, True]]
    assert batch.weights.tolist() == [0.5, 0.0, 3.0, 0.0]


def test_an_empty_table_gives_padding_alone() -> None:
    """A rank without rows still takes the step."""
    batch = collate(MIXED.table().slice(0, 0), MIXED.layout, 3)
    assert bags_of(batch, MIXED.layout) == [[[], [], []], [[], [], []]]
    assert batch.weights.tolist() == [0.0, 0.0, 0.0]
    assert batch.dense.tolist() == [[0.0]] * 3
    assert batch.labels.isnan().all()


def test_candidates_without_labels_and_weights_get_null_labels_and_weight_1() -> None:
    batch = collate(MIXED.table().drop_columns(["labels", "weight"]), MIXED.layout, 3)
    assert batch.labels.shape == (3, 2)
    assert batch.labels.isnan().all()
    assert batch.weights.tolist() == [1.0, 1.0, 1.0]


def test_more_rows_than_the_batch_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        collate(MIXED.table(), MIXED.layout, 2)


@pytest.mark.parametrize("feature", [0, 1])
@pytest.mark.parametrize("bad", [-1, 10, 2**31 - 1])
def test_an_id_outside_its_table_names_the_feature(feature: int, bad: int) -> None:
    bags = [[[4], [9], [0]], [[0, 9], [], [3]]]
    layout = Layout(("user", "tags"), (True, False), (10, 10), 0, 1)

    def table() -> pa.Table:
        columns = {
            "sparse_user": pa.array([bag[0] for bag in bags[0]], pa.int32()),
            "sparse_tags": pa.array(bags[1], pa.list_(pa.int32())),
        }
        return pa.table(columns)

    collate(table(), layout, 3)
    bags[feature][2] = [bad]
    name = layout.features[feature]
    message = f"feature '{name}': id {bad} is outside its table of 10 rows. Run `preprocess` again."
    with pytest.raises(ArtifactError) as caught:
        collate(table(), layout, 4)
    assert str(caught.value) == message
    # A row that is not part of the batch is not read.
    assert collate(table().slice(0, 2), layout, 2).weights.tolist() == [1.0, 1.0]


def test_a_batch_owns_its_numbers() -> None:
    """Changing it must not write into a shard's mapped memory."""
    table = MIXED.table()
    batch = collate(table, MIXED.layout, 3)
    batch.sparse.values().zero_()
    batch.dense.zero_()
    batch.labels.zero_()
    batch.weights.zero_()
    assert table.equals(MIXED.table())


def test_the_layout_follows_the_schema() -> None:
    section = {
        "features": [
            {"name": "user", "kind": "categorical"},
            {"name": "age", "kind": "numeric", "null_indicator": True},
            {"name": "history", "kind": "history", "table": "item"},
            {"name": "item", "kind": "categorical"},
            {"name": "price", "kind": "numeric"},
        ],
        "tasks": [{"name": "click", "kind": "binary", "label": "c"}, {"name": "like", "kind": "binary", "label": "l"}],
    }
    layout = Layout.of(build(Schema, section, "the tests"), {"user": 5, "item": 7})
    assert layout == Layout(("user", "history", "item"), (True, False, True), (5, 7, 7), 3, 2)


def test_the_parts_of_a_batch_move_together() -> None:
    batch = collate(MIXED.table(), MIXED.layout, 4, position=(1, 3)).to(torch.device("meta"))
    assert {part.device.type for part in (batch.dense, batch.labels, batch.weights)} == {"meta"}
    assert batch.sparse.values().is_meta
    assert batch.position == (1, 3)


def test_float32_and_int64_extremes_pass_unchanged() -> None:
    largest = float(np.finfo(np.float32).max)
    wide = Rows([True], [True], [[[NUM_EMBEDDINGS - 1]]], [[largest, -0.0]], [[1.0]])
    assert_holds(collate(wide.table(), wide.layout, 1), wide, num_padding=0)


# --- weighted features


def weighted_table(weights: list[list[float | None]]) -> pa.Table:
    return pa.table(
        {
            "sparse_user": pa.array([4, 5, 6], pa.int32()),
            "sparse_tags": pa.array([[7, 8], [], [9]], pa.list_(pa.int32())),
            "weights_tags": pa.array(weights, pa.list_(pa.float32())),
        }
    )


WEIGHTED = Layout(("user", "tags"), (True, False), (10, 10), 0, 1, frozenset({"tags"}))


def test_ids_have_weights_where_a_feature_is_weighted_and_1_elsewhere() -> None:
    batch = collate(weighted_table([[0.5, 0.0], [], [2.0]]), WEIGHTED, 4)
    assert batch.sparse["user"].weights().tolist() == [1.0, 1.0, 1.0]
    assert batch.sparse["tags"].weights().tolist() == [0.5, 0.0, 2.0]
    assert batch.sparse.weights().dtype == torch.float32
    assert collate(weighted_table([[1, 2], [], [3]]).slice(1), WEIGHTED, 2).sparse.weights().tolist() == [1, 1, 3]
    assert collate(weighted_table([[1, 2], [], [3]]).slice(0, 0), WEIGHTED, 2).sparse.weights().numel() == 0
    assert collate(MIXED.table(), MIXED.layout, 3).sparse.weights_or_none() is None
    assert batch.to(torch.device("meta")).sparse.weights().is_meta


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([[1.0, None], [], [1.0]], "feature 'tags': a weight in a shard is none"),
        ([[1.0, -1.0], [], [1.0]], "feature 'tags': a weight in a shard is none"),
        ([[1.0, math.inf], [], [1.0]], "feature 'tags': a weight in a shard is none"),
        ([[1.0], [1.0], [1.0]], "feature 'tags': a row in a shard has not one weight per id"),
    ],
)
def test_weights_that_are_none_or_do_not_fit_the_ids_name_the_feature(
    weights: list[list[float | None]], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        collate(weighted_table(weights), WEIGHTED, 3)


def test_a_layout_and_a_shard_have_weights_beside_the_ids_of_weighted_features() -> None:
    section = {
        "features": [
            {"name": "tags", "kind": "weighted_multi_valued", "table": "tag"},
            {"name": "tag", "kind": "categorical"},
            {"name": "pair", "kind": "crossed", "columns": ["a", "b"], "num_hash_buckets": 8},
            {"name": "hour", "kind": "time_part", "part": "hour"},
            {"name": "price", "kind": "bucketed", "num_buckets": 4},
        ],
        "tasks": [{"name": "click", "kind": "binary", "label": "c"}],
    }
    schema = build(Schema, section, "the tests")
    rows = {"tag": 5} | {name: owner.fixed_rows for name, owner in schema.table_owners().items() if owner.fixed_rows}
    assert rows == {"tag": 5, "pair": 10, "hour": 26, "price": 6}
    assert Layout.of(schema, rows) == Layout(
        ("tags", "tag", "pair", "hour", "price"),
        (False, True, True, True, True),
        (5, 5, 10, 26, 6),
        0,
        1,
        frozenset({"tags"}),
    )
    fields = shard_schema(schema, rows, {})
    assert fields.names[:3] == ["sparse_tags", "weights_tags", "sparse_tag"]
    assert fields.field("weights_tags").type == pa.list_(pa.float32())
    assert fields.field("sparse_pair").type == pa.int32()
