"""Crosses of columns, and which features have rows of their table without a vocabulary."""

from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from raw_features import make_feature, read_values, texts_of

from pipeline.preprocess.features.kinds import Places, fixed_encoding
from pipeline.preprocess.features.vocabulary import HashBuckets


def test_a_cross_is_null_where_a_column_is() -> None:
    values = read_values(
        make_feature("crossed", columns=["a", "b"], num_hash_buckets=9), a=["x", None, "x"], b=[1.0, 2.0, None]
    )
    assert texts_of(values) == ["x|1", None, None]
    assert values.is_null.tolist() == [False, True, True]
    assert (
        texts_of(
            read_values(make_feature("crossed", columns=["a", "b"], num_hash_buckets=9), a=pa.nulls(0), b=pa.nulls(0))
        )
        == []
    )


PARTS = st.none() | st.text("a|\\", max_size=3)


@given(st.lists(st.tuples(PARTS, PARTS, PARTS), min_size=1, max_size=30))
def test_crosses_are_equal_exactly_where_all_their_columns_are(rows: list[tuple[Any, ...]]) -> None:
    columns = {name: pa.array(column, pa.string()) for name, column in zip("abc", zip(*rows, strict=True), strict=True)}
    crossed = texts_of(read_values(make_feature("crossed", columns=["c", "a", "b"], num_hash_buckets=9), **columns))
    for row, text in zip(rows, crossed, strict=True):
        assert (text is None) == (None in row)
        for other, other_text in zip(rows, crossed, strict=True):
            if text is not None:
                assert (text == other_text) == (row == other)


def test_only_a_table_with_a_vocabulary_has_no_fixed_encoding() -> None:
    assert fixed_encoding(make_feature("categorical")) is None
    assert fixed_encoding(make_feature("categorical", num_hash_buckets=7)) == HashBuckets(7)
    assert fixed_encoding(make_feature("crossed", columns=["a", "b"], num_hash_buckets=9)) == HashBuckets(9)
    assert fixed_encoding(make_feature("bucketed", boundaries=[1, 2])) == Places(3)
