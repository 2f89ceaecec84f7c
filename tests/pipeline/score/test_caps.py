"""Caps against the plainest way to keep them: row by row, the best first."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.score import caps as caps_module
from pipeline.score.caps import Cap, rank_rows

ROWS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from([-1.5, 0.0, 0.25, 0.5, 2.0]),
        st.integers(0, 30),
        st.integers(-1, 2),
        st.integers(-1, 2),
    ),
    unique_by=lambda row: (row[0], row[2]),
    max_size=60,
).map(sorted)


def ranked_row_by_row(
    rows: list[tuple[int, float, int, int, int]], k: int, limits: list[int]
) -> tuple[list[tuple[int, int, int]], int]:
    """Request, rank and item of each row kept, and how many rows were passed over before the last one kept."""
    kept: list[tuple[int, int, int]] = []
    num_capped = 0
    num_kept: Counter[int] = Counter()
    counts: Counter[tuple[int, int, int]] = Counter()
    for request, _, item, *codes in sorted(rows, key=lambda row: (row[0], -row[1], row[2])):
        kinds = [(request, number, code) for number, code in enumerate(codes[: len(limits)]) if code >= 0]
        if num_kept[request] == k:
            continue
        if any(counts[kind] == limits[kind[1]] for kind in kinds):
            num_capped += 1
            continue
        counts.update(kinds)
        num_kept[request] += 1
        kept.append((request, num_kept[request], item))
    return kept, num_capped


@settings(max_examples=300)
@given(ROWS, st.integers(1, 8), st.lists(st.integers(1, 3), min_size=1, max_size=2), st.integers(1, 3))
def test_capped_rows_are_those_that_are_left_row_by_row(
    rows: list[tuple[int, float, int, int, int]], k: int, limits: list[int], factor: int
) -> None:
    columns = [np.array(column) for column in zip(*rows, strict=True)] if rows else [np.zeros(0, np.int64)] * 5
    request, score, item, *codes = columns
    first = caps_module.FIRST_FACTOR
    caps_module.FIRST_FACTOR = factor
    try:
        caps = [Cap(own, limit) for own, limit in zip(codes, limits, strict=False)]
        places, rank, num_capped = rank_rows(request, score.astype(np.float64), item, k, caps)
    finally:
        caps_module.FIRST_FACTOR = first
    found = list(zip(request[places].tolist(), rank.tolist(), item[places].tolist(), strict=True))
    assert (found, num_capped) == ranked_row_by_row(rows, k, limits)


def test_a_request_whose_best_rows_are_all_of_one_kind_is_searched_to_its_end() -> None:
    score = np.arange(5_000, 0, -1, dtype=np.float64)
    code = np.append(np.zeros(4_999, np.int64), 1)
    ranking = rank_rows(np.zeros(5_000, np.int64), score, np.arange(5_000), 4, [Cap(code, 3)])
    assert ranking.places.tolist() == [0, 1, 2, 4_999]
    assert ranking.num_capped == 4_996
