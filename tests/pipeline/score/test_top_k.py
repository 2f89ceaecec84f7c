"""top_k against pandas: sort, group, head."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.score.top_k import top_k

Ids = NDArray[np.int64]
Scores = NDArray[np.float64]

# Few values of each, so that requests have several rows and scores tie; a request has an item once.
ROWS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from([-1.5, -0.0, 0.0, 0.25, 0.5, 1e-300]), st.integers(0, 8)),
    unique_by=lambda row: (row[0], row[2]),
    max_size=60,
)


def as_arrays(rows: list[tuple[int, float, int]]) -> tuple[Ids, Scores, Ids]:
    request, score, item = zip(*rows, strict=True) if rows else ((), (), ())
    return np.array(request, np.int64), np.array(score, np.float64), np.array(item, np.int64)


def ranked(request: Ids, score: Scores, item: Ids, k: int) -> list[tuple[int, int, float, int]]:
    places, rank = top_k(request, score, item, k)
    return list(
        zip(request[places].tolist(), rank.tolist(), score[places].tolist(), item[places].tolist(), strict=True)
    )


def ranked_by_pandas(request: Ids, score: Scores, item: Ids, k: int) -> list[tuple[int, int, float, int]]:
    frame = pd.DataFrame({"request": request, "score": score, "item": item})
    frame = frame.sort_values(["request", "score", "item"], ascending=[True, False, True], kind="stable")
    frame = frame.groupby("request").head(k)
    frame.insert(1, "rank", frame.groupby("request").cumcount() + 1)
    return [tuple(row) for row in frame.itertuples(index=False)]


@given(ROWS, st.integers(1, 12))
def test_the_best_of_each_request_are_those_of_pandas(rows: list[tuple[int, float, int]], k: int) -> None:
    assert ranked(*as_arrays(rows), k) == ranked_by_pandas(*as_arrays(rows), k)


@given(ROWS.flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(rows))), st.integers(1, 12))
def test_the_order_of_the_input_does_not_matter(
    orders: tuple[list[tuple[int, float, int]], list[tuple[int, float, int]]], k: int
) -> None:
    rows, permuted = orders
    assert ranked(*as_arrays(rows), k) == ranked(*as_arrays(permuted), k)


def test_a_large_random_set_is_ranked_as_by_pandas() -> None:
    rng = np.random.default_rng(3)
    request, item = np.divmod(rng.permutation(20_000), 97)
    score = rng.integers(0, 30, len(request)) / 30
    for k in (1, 10, 96, 97, 10_000):
        assert ranked(request, score, item, k) == ranked_by_pandas(request, score, item, k)


def test_three_requests_are_ranked_as_by_hand() -> None:
    request, score, item = np.array([7, 2, 7, 7, 2, 5]), np.array([0.1, 0.5, 0.9, 0.9, 0.6, 0.0]), np.arange(6)[::-1]
    assert ranked(request, score, item, 2) == [
        (2, 1, 0.6, 1),
        (2, 2, 0.5, 4),
        (5, 1, 0.0, 0),
        (7, 1, 0.9, 2),
        (7, 2, 0.9, 3),
    ]


@pytest.mark.parametrize("k", [4, 5, 1_000_000])
def test_a_k_as_large_as_the_set_or_larger_keeps_all_of_it(k: int) -> None:
    request, score, item = np.zeros(4, np.int64), np.array([0.3, 0.1, 0.2, 0.4]), np.arange(4)
    assert [row[3] for row in ranked(request, score, item, k)] == [3, 0, 2, 1]


def test_no_rows_give_no_rows() -> None:
    assert ranked(*as_arrays([]), 3) == []
