"""A ranking that is not what scoring row by row gives is refused, and rounding is not."""

import numpy as np
import pytest

from pipeline.benchmark.score_check import Agreement, Columns, compare_ranking, fuse
from pipeline.errors import ArtifactError

NUM_REQUESTS, NUM_CANDIDATES, TOP = 7, 20, 5


@pytest.fixture
def plain() -> Columns:
    random = np.random.default_rng(0)
    items = [random.permutation(50)[:NUM_CANDIDATES] for _ in range(NUM_REQUESTS)]
    num_rows = NUM_REQUESTS * NUM_CANDIDATES
    return {
        "request_id": np.repeat(np.arange(NUM_REQUESTS) + 100, NUM_CANDIDATES),
        "item_id": np.concatenate(items),
        "click": random.random(num_rows),
        "purchase": random.random(num_rows),
        "watch": random.random(num_rows) * 100,
    }


def _rank(plain: Columns) -> Columns:
    """The best candidates of each request, in any order of the rows."""
    score = fuse(plain)
    rows, ranks = [], []
    for request in np.unique(plain["request_id"]):
        own = np.flatnonzero(plain["request_id"] == request)
        best = sorted(own, key=lambda row: (-score[row], plain["item_id"][row]))[:TOP]
        rows += best
        ranks += list(range(1, TOP + 1))
    order = np.random.default_rng(1).permutation(len(rows))
    found = {name: values[rows][order] for name, values in plain.items()}
    return found | {"rank": np.array(ranks)[order], "score": score[rows][order]}


def test_the_best_candidates_agree(plain: Columns) -> None:
    plain["click"][:4], plain["purchase"][:4] = 1.0, 1.0  # ties
    assert compare_ranking(_rank(plain), plain, TOP) == Agreement(NUM_REQUESTS, NUM_REQUESTS * TOP, 0.0, 0)


def test_rounding_is_shown_and_may_swap_equals(plain: Columns) -> None:
    ranked = _rank(plain)
    best = int(np.flatnonzero((ranked["request_id"] == 100) & (ranked["rank"] == 1))[0])
    second = int(np.flatnonzero((ranked["request_id"] == 100) & (ranked["rank"] == 2))[0])
    rows = [int(np.flatnonzero((plain["request_id"] == 100) & (plain["item_id"] == ranked["item_id"][place]))[0])
            for place in (best, second)]  # fmt: skip
    for name in ("click", "purchase"):
        plain[name][rows[1]] = plain[name][rows[0]] - 1e-8
    ranked = _rank(plain)
    swapped = np.isin(ranked["rank"], (1, 2)) & (ranked["request_id"] == 100)
    ranked["rank"][swapped] = 3 - ranked["rank"][swapped]
    ranked["watch"] = ranked["watch"] * (1 + 2e-7)
    agreement = compare_ranking(ranked, plain, TOP)
    assert agreement.num_swapped == 2
    assert 1e-7 < agreement.largest_difference < 4e-7


@pytest.mark.parametrize("name", ["click", "watch", "score"])
@pytest.mark.parametrize("change", [1e-3, np.nan])
def test_another_number_is_refused(name: str, change: float, plain: Columns) -> None:
    ranked = _rank(plain)
    ranked[name][3] += change
    with pytest.raises(ArtifactError, match=f"not those of scoring row by row: {name} differs by "):
        compare_ranking(ranked, plain, TOP)


def test_a_worse_item_at_a_rank_is_refused(plain: Columns) -> None:
    ranked = _rank(plain)
    own = ranked["request_id"] == 103
    ranked["rank"][own] = TOP + 1 - ranked["rank"][own]
    with pytest.raises(ArtifactError, match="rank differs by "):
        compare_ranking(ranked, plain, TOP)


def test_a_missing_row_and_an_item_of_another_request_are_refused(plain: Columns) -> None:
    ranked = _rank(plain)
    with pytest.raises(ArtifactError, match="the requests of its 34 rows are not those of the 35 best ones"):
        compare_ranking({name: values[1:] for name, values in ranked.items()}, plain, TOP)
    own = plain["item_id"][plain["request_id"] == ranked["request_id"][0]]
    ranked["item_id"][0] = next(item for item in range(50) if item not in own)
    with pytest.raises(ArtifactError, match="an item was no candidate of its request"):
        compare_ranking(ranked, plain, TOP)
