"""Tables to batches against a naive reference: bags, padding, null labels, and ids outside their table."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_rows import MIXED, NUM_EMBEDDINGS, Rows, rows
from torch import Tensor

from models.batch import Batch
from pipeline.config import build
from pipeline.errors import ArtifactError
from pipeline.schema import Schema
from pipeline.shards.collate import Layout, collate


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
    with pytest.raises(ValueError, match="a batch of 2 rows has no room for 3"):
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
