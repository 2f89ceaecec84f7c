"""The fitted transform by hand, and on odd values: the layout of a shard whatever the column holds."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ArtifactError, DataError
from pipeline.preprocess.features.kinds import read_sparse
from pipeline.preprocess.features.normalize import Normalization
from pipeline.preprocess.features.vocabulary import HashBuckets, Vocabulary
from pipeline.preprocess.transform import Encoding, FittedTransform
from pipeline.schema import Schema
from pipeline.shards.manifest import shard_schema
from pipeline.shards.vocabularies import vocabulary_path

SCHEMA = Schema.model_validate(
    {
        "features": [
            {"name": "item", "kind": "categorical"},
            {"name": "price", "kind": "numeric", "null_indicator": True},
            {"name": "seen", "kind": "history", "table": "item", "max_length": 3, "delimiter": "|"},
            {"name": "user", "kind": "categorical", "num_hash_buckets": 4},
            {"name": "raw", "kind": "numeric", "standardise": False},
        ],
        "tasks": [{"name": "click", "kind": "binary", "label": "click"}],
    }
)


def fitted(values: tuple[str, ...] = ("a", "b", "3")) -> FittedTransform:
    """With the rows b: 2, a: 3, 3: 4, in the order of their hashes."""
    encodings: dict[str, Encoding] = {"item": Vocabulary.of(values), "user": HashBuckets(4)}
    return FittedTransform(
        SCHEMA, encodings, {name: Normalization(mean=10.0, deviation=2.0) for name in ("price", "raw")}
    )


def save(transform: FittedTransform, dataset_dir: Path) -> None:
    transform.encodings["item"].save(vocabulary_path(dataset_dir, "item"))  # type: ignore[union-attr]
    transform.save_numbers(dataset_dir)


def encode(**columns: Any) -> pa.Table:
    rows = len(next(iter(columns.values())))
    blank: dict[str, list[Any]] = {"item": ["a"], "price": [1.0], "seen": [["a"]], "user": [1], "raw": [0.0]}
    raw = {name: columns.get(name, values * rows) for name, values in blank.items()}
    return fitted().encode_features(pa.table(raw), "log.csv")


def test_the_columns_are_those_of_a_shard_without_labels_and_keys() -> None:
    expected = list(shard_schema(SCHEMA, fitted().table_rows, {}))[:4]
    assert list(encode(item=["a"]).schema) == expected
    assert fitted().table_rows == {"item": 5, "user": 6}


def test_a_value_is_unseen_null_or_its_row() -> None:
    table = encode(item=pa.array([3.0, None, 4.0, float("nan")]))
    assert table["sparse_item"].to_pylist() == [4, 1, 0, 1]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([["b", "zzz", None, "a"], None, [], ["a"]]),
        pa.array([["b", "zzz", None, "a"], None, [], ["a"]], pa.large_list(pa.string())),
        pa.chunked_array([[["skip"], ["b", "zzz", None, "a"]], [None, []], [["a"]]]).slice(1),
    ],
    ids=["list", "large", "chunks"],
)
def test_lists_are_cut_and_null_or_empty_ones_hold_nothing(values: Any) -> None:
    assert encode(seen=values)["sparse_seen"].to_pylist() == [[2, 0, 1], [], [], [3]]


def test_fixed_size_lists_are_lists() -> None:
    values = pa.array([["a", "b"], None, ["b", None]], pa.list_(pa.string(), 2))
    assert encode(seen=values)["sparse_seen"].to_pylist() == [[3, 2], [], [2, 1]]


def test_texts_are_split_and_their_empty_pieces_dropped() -> None:
    values = ["b| zzz |a|a", None, "", " | |", "a", "b| zzz |a|a", "3.0"]
    expected = [[2, 0, 3], [], [], [], [3], [2, 0, 3], [4]]
    assert encode(seen=values)["sparse_seen"].to_pylist() == expected
    assert encode(seen=pa.array([3, None]))["sparse_seen"].to_pylist() == [[4], []]


def test_cut_and_null_lists_are_told() -> None:
    (feature,) = (f for f in SCHEMA.features if f.kind == "history")
    lists = read_sparse(pa.table({"seen": ["a|a|a|a", None, "a|a|a"]}), feature, "log.csv")
    assert lists.is_cut.tolist() == [True, False, False]
    assert lists.is_null.tolist() == [False, True, False]


def test_numbers_are_scaled_and_a_null_is_the_mean_with_its_indicator() -> None:
    table = encode(price=pa.array([14.0, None, float("inf")]), raw=[-1.0, None, 5.0])
    assert table["dense"].to_pylist() == [[2.0, 0.0, -1.0], [0.0, 1.0, 0.0], [0.0, 1.0, 5.0]]


def test_a_list_is_no_categorical_value_and_a_text_no_list() -> None:
    with pytest.raises(DataError, match=r"feature 'item': column 'item' of log\.csv has type list.*one value per row"):
        encode(item=[["a"]])
    plain = Schema.model_validate(
        {"features": [{"name": "tags", "kind": "multi_valued"}], "tasks": SCHEMA.model_dump()["tasks"]}
    )
    with pytest.raises(
        DataError, match=r"feature 'tags': column 'tags' of log.csv has type string.*Add the `delimiter`"
    ):
        FittedTransform(plain, {"tags": HashBuckets(2)}, {}).encode_features(pa.table({"tags": ["a"]}), "log.csv")


SCALARS = st.none() | st.text() | st.integers(-(2**62), 2**62) | st.floats() | st.booleans() | st.dates()


@given(st.lists(SCALARS, min_size=1, max_size=1).flatmap(lambda one: st.tuples(st.just(one), st.lists(st.none()))))
def test_any_single_value_has_a_row_in_its_table(values: tuple[list[Any], list[None]]) -> None:
    column = pa.array([*values[0], *values[1]])
    table = encode(item=column, user=column, price=pa.nulls(len(column)))
    for name, rows in fitted().table_rows.items():
        ids = np.asarray(table[f"sparse_{name}"])
        assert ((ids >= 0) & (ids < rows)).all()


@given(st.lists(st.none() | st.lists(st.none() | st.sampled_from(["a", "b", "3", "?"]))))
def test_lists_and_their_text_are_encoded_alike(values: list[list[str | None] | None]) -> None:
    present = [None if value is None else [piece for piece in value if piece] for value in values]
    texts = [None if value is None else "|".join(value) for value in present]
    rows = {"b": 2, "a": 3, "3": 4, "?": 0}
    expected = [[rows[piece] for piece in value or []][:3] for value in present]
    assert (
        encode(item=["a"] * len(values), seen=pa.array(present, pa.list_(pa.string())))["sparse_seen"].to_pylist()
        == expected
    )
    assert encode(item=["a"] * len(values), seen=pa.array(texts, pa.string()))["sparse_seen"].to_pylist() == expected


@given(st.lists(st.none() | st.floats(), min_size=1))
def test_dense_inputs_are_finite_whatever_the_numbers(values: list[float | None]) -> None:
    column = pa.array(values, pa.float64())
    dense = encode(price=column, raw=column)["dense"].combine_chunks().flatten()
    assert np.isfinite(np.asarray(dense)).all()


def test_what_is_saved_is_loaded_again(tmp_path: Path) -> None:
    save(fitted(), tmp_path)
    again = FittedTransform.load(tmp_path, SCHEMA, expected_version=fitted().version)
    table = pa.table({"item": ["b"], "price": [1.0], "seen": ["a"], "user": [1], "raw": [1.0]})
    assert again.encode_features(table, "x").equals(fitted().encode_features(table, "x"))


def test_the_version_follows_what_was_fitted(tmp_path: Path) -> None:
    assert fitted().version == fitted().version
    assert fitted(("a", "b")).version != fitted().version
    save(fitted(("a", "b")), tmp_path)
    with pytest.raises(ArtifactError, match="vocabularies is not the one the dataset was made with"):
        FittedTransform.load(tmp_path, SCHEMA, expected_version=fitted().version)


def test_a_missing_normalization_is_named(tmp_path: Path) -> None:
    save(fitted(), tmp_path)
    (tmp_path / "vocabularies" / "normalizations.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"normalizations\.json cannot be read"):
        FittedTransform.load(tmp_path, SCHEMA)
