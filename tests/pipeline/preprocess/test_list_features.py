"""Lists of ids and of ids with weights, read from every way to write them."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_features import make_feature, read_values, texts_of, weights_of

from pipeline.errors import DataError
from pipeline.preprocess.features.kinds import judge_sparse


def test_lists_and_split_texts_are_the_same() -> None:
    feature = make_feature("multi_valued", delimiter="|", max_length=2)
    lists = read_values(feature, x=[["a", "3.0", "c"], None, [], [None]])
    assert texts_of(lists) == [["a", "3"], [], [], [None]]
    assert lists.is_null.tolist() == [False, True, False, False]
    assert lists.is_cut.tolist() == [True, False, False, False]
    assert lists.weights is None
    split = read_values(feature, x=["a| 3.0 ||c", None, " | ", "b"])
    assert texts_of(split) == [["a", "3"], [], [], ["b"]]


def test_a_text_without_a_delimiter_is_no_list() -> None:
    with pytest.raises(DataError, match=r"feature 'x': column 'x' of log.csv has type string, not a list. Add the `de"):
        read_values(make_feature("history"), x=["a|b"])


# --- weights


def test_weights_stand_after_the_last_delimiter_of_a_piece() -> None:
    values = read_values(
        make_feature("weighted_multi_valued", delimiter="|"), x=["a:0.5|b|c:x: 2 |:7|d:", None, "", "a:0"]
    )
    assert texts_of(values) == [["a", "b", "c:x", "d"], [], [], ["a"]]
    assert weights_of(values) == [[0.5, 1.0, 2.0, 1.0], [], [], [0.0]]
    assert values.is_null.tolist() == [False, True, False, False]


def test_elements_of_a_list_have_weights_too() -> None:
    values = read_values(
        make_feature("weighted_multi_valued", max_length=2, weight_delimiter="@"), x=[["a@2", None, "b@3"], ["3.0@4"]]
    )
    assert texts_of(values) == [["a", None], ["3"]]
    assert weights_of(values) == [[2.0, 1.0], [4.0]]
    assert values.is_cut.tolist() == [True, False]


@pytest.mark.parametrize(
    ("ids", "weights"),
    [
        ([["a", "b"], ["c"], [], None], [[0.5, None], None, [], None]),
        ([["a", "b"], ["c"], [], None], [["0.5", ""], None, [], None]),
        (["a|b", "c", "", None], ["0.5|", None, "", None]),
        (["a||b", "c|", "", None], ["0.5|9|", "1|2", " ", None]),
        ([["a", "b"], ["c"], [], None], ["0.5|", "1", "", None]),
    ],
)
def test_weights_may_be_in_a_column_of_their_own(ids: list[Any], weights: list[Any]) -> None:
    values = read_values(make_feature("weighted_multi_valued", delimiter="|", weights="w"), x=ids, w=weights)
    assert texts_of(values) == [["a", "b"], ["c"], [], []]
    assert weights_of(values) == [[0.5, 1.0], [1.0], [], []]


@pytest.mark.parametrize("bad", ["-1", "nan", "inf", "1e31", "much", "1 2"])
def test_what_is_no_weight_is_named_with_its_row(bad: str) -> None:
    message = rf"feature 'x': '{bad}' in log.csv, row 102 is no weight, a finite number of at least 0"
    with pytest.raises(DataError, match=message):
        read_values(make_feature("weighted_multi_valued", delimiter="|"), x=["a:1", f"b:2|c:{bad}"])
    with pytest.raises(DataError, match=message):
        read_values(make_feature("weighted_multi_valued", weights="w"), x=[["a"], ["b", "c"]], w=[["1"], ["2", bad]])


def test_more_or_fewer_weights_than_ids_are_named_with_their_row() -> None:
    feature = make_feature("weighted_multi_valued", weights="w")
    message = r"feature 'x': \[1.0\] in log.csv, row 102 has another number of weights than there are ids"
    with pytest.raises(DataError, match=message):
        read_values(feature, x=[["a"], ["b", "c"]], w=[[1.0], [1.0]])
    columns = {"x": [["a"], ["b", "c"], ["d"], ["e"]], "w": [[2.0], [1.0], [-1.0], [5.0]]}
    values, faults = judge_sparse(pa.table(columns), feature, "log.csv")
    assert [fault.is_wrong.tolist() for fault in faults] == [[False, True, False, False], [False, False, True, False]]
    assert faults[1].reason == "feature 'x' is no weight, a finite number of at least 0"
    # The rows that can be used are what they are without the others.
    assert texts_of(values) == [["a"], [], ["d"], ["e"]]
    assert weights_of(values)[3] == [5.0]


def test_weights_of_another_type_are_refused() -> None:
    with pytest.raises(DataError, match=r"the weights of feature 'x': column 'w' of log.csv has type"):
        read_values(make_feature("weighted_multi_valued", weights="w"), x=[["a"]], w=[[{"b": 1}]])


PIECES = st.lists(st.tuples(st.sampled_from(["a", "b", "c:d"]), st.none() | st.integers(0, 9)), max_size=4)


@given(st.lists(st.none() | PIECES, min_size=1), st.integers(1, 3))
def test_every_way_to_write_weights_reads_the_same(rows: list[Any], max_length: int) -> None:
    texts = [
        None if row is None else "|".join(f"{id_}:{'' if weight is None else weight}" for id_, weight in row)
        for row in rows
    ]
    ids = pa.array([row and [id_ for id_, _ in row] for row in rows], pa.list_(pa.string()))
    weights = pa.array([row and [weight for _, weight in row] for row in rows], pa.list_(pa.int64()))
    in_text = read_values(
        make_feature("weighted_multi_valued", delimiter="|", max_length=max_length), x=pa.array(texts, pa.string())
    )
    beside = read_values(make_feature("weighted_multi_valued", weights="w", max_length=max_length), x=ids, w=weights)
    expected = [(row or [])[:max_length] for row in rows]
    for values in (in_text, beside):
        assert texts_of(values) == [[id_ for id_, _ in row] for row in expected]
        assert weights_of(values) == [
            [1.0 if weight is None else float(weight) for _, weight in row] for row in expected
        ]
        assert values.is_cut.tolist() == [len(row or []) > max_length for row in rows]
