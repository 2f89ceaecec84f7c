"""Caps: of the candidates of a request, by rank, at most so many with the same value of a column."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.score.top_k import TieBreak, top_k

# So many times k rows of a request are looked at first, and as many times more while too few of them are kept.
FIRST_FACTOR = 4
NEXT_FACTOR = 8


class Cap(NamedTuple):
    """The value of each row as a number, -1 for null, which is not capped; and how many rows of a value are kept."""

    codes: NDArray[np.int64]
    max: int


class Ranking(NamedTuple):
    """The places of the rows kept and the rank of each, as `top_k` gives them; how many others a cap kept out."""

    places: NDArray[np.int64]
    rank: NDArray[np.int64]
    num_capped: int


def rank_rows(
    request: NDArray[np.int64], score: NDArray[np.float64], tie_break: TieBreak, k: int, caps: Sequence[Cap]
) -> Ranking:
    """The k best rows of each request that caps leave, greedily: a row counts for all of its values if it is kept.

    What is kept of a request's best rows does not depend on worse ones, so these are looked at only where too few are
    left. Rows that are worse than the last one kept are not counted as capped. All arrays: [rows], `request` ascending.
    """
    if not caps:
        return Ranking(*top_k(request, score, tie_break, k), 0)
    tie_break = pa.array(tie_break)
    sizes = np.bincount(request)
    rows, depth, num_capped = np.arange(len(request)), FIRST_FACTOR * k, 0
    found = []
    while len(rows):
        best, _ = top_k(request[rows], score[rows], tie_break.take(pa.array(rows)), depth)
        best = rows[best]
        is_free = _is_free(request[best], [Cap(cap.codes[best], cap.max) for cap in caps], k)
        num_before = _count_before(request[best], is_free)
        is_kept = is_free & (num_before < k)
        is_done = (np.bincount(request[best[is_kept]], minlength=len(sizes)) == k) | (depth >= sizes)
        found.append(best[is_kept & is_done[request[best]]])
        num_capped += int((~is_free & (num_before < k) & is_done[request[best]]).sum())
        rows, depth = rows[~is_done[request[rows]]], depth * NEXT_FACTOR
    places = np.concatenate([np.zeros(0, np.int64), *found])
    places = places[np.argsort(request[places], kind="stable")]
    return Ranking(places, _count_before(request[places], np.ones(len(places), bool)) + 1, num_capped)


def _count_before(request: NDArray[np.int64], is_counted: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many earlier rows of its request are counted, for each row."""
    before: NDArray[np.int64] = np.cumsum(is_counted) - is_counted
    starts = np.flatnonzero(np.diff(request, prepend=request[:1] - 1))
    counts: NDArray[np.int64] = before - np.repeat(before[starts], np.diff(starts, append=len(request)))
    return counts


def _is_free(request: NDArray[np.int64], caps: Sequence[Cap], k: int) -> NDArray[np.bool_]:
    """Which rows, in the order of their ranks, no cap keeps out."""
    is_over = np.zeros(len(request), bool)
    for cap in caps:
        is_over |= (_number_of_kind(request, cap.codes) >= cap.max) & (cap.codes >= 0)
    if len(caps) == 1:
        return ~is_over
    # A row that one cap keeps out does not count for another one.
    is_free = np.ones(len(request), bool)
    unsure = np.flatnonzero(np.isin(request, request[is_over]))
    counts: Counter[tuple[int, ...]] = Counter()
    columns = [cap.codes[unsure].tolist() for cap in caps]
    for place, own, *codes in zip(unsure.tolist(), request[unsure].tolist(), *columns, strict=True):
        if counts[(own,)] == k:
            continue
        kinds = [(own, number, code) for number, code in enumerate(codes) if code >= 0]
        is_free[place] = all(counts[kind] < caps[kind[1]].max for kind in kinds)
        if is_free[place]:
            counts.update([*kinds, (own,)])
    return is_free


def _number_of_kind(request: NDArray[np.int64], codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many earlier rows of its request have the value of each row."""
    kind = request * (int(codes.max(initial=0)) + 2) + codes + 1
    order = np.argsort(kind, kind="stable")
    number = np.empty(len(kind), np.int64)
    number[order] = _count_before(kind[order], np.ones(len(kind), bool))
    return number
