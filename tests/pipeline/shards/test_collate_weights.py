"""Tables to batches where features are weighted: a weight beside each id, and weights that are refused."""

import math

import pyarrow as pa
import pytest
import torch
from naive_rows import MIXED

from pipeline.config import build
from pipeline.errors import ArtifactError
from pipeline.schema import Schema
from pipeline.shards.collate import Layout, collate
from pipeline.shards.manifest import shard_schema


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
