"""The k best rows of each request, in an order that does not depend on the order of the input."""

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Ids: TypeAlias = NDArray[np.int64]
Scores: TypeAlias = NDArray[np.float64]
TieBreak: TypeAlias = Ids | pa.Array


def top_k(request: Ids, score: Scores, tie_break: TieBreak, k: int) -> tuple[Ids, Ids]:
    """The places of the rows kept and the rank of each, from 1: request by request, the highest score first.

    `request` numbers the request of each row; requests come out in the order of their numbers. Rows of equal score are
    ordered by `tie_break`, the lowest first. All arrays: [rows]. Only rows that may be kept are sorted.
    """
    if (request[1:] < request[:-1]).any():
        order = np.argsort(request, kind="stable")
        places, rank = top_k(request[order], score[order], pa.array(tie_break).take(pa.array(order)), k)
        return order[places], rank
    starts, sizes = _runs(request)
    places = np.arange(len(request))
    if (sizes > k).any():
        places = np.flatnonzero(score >= np.repeat(_lowest_kept(score, starts, sizes, k), sizes))
    places = places[_order(request[places], score[places], pa.array(tie_break).take(pa.array(places)))]
    starts, sizes = _runs(request[places])
    rank = np.arange(len(places)) - np.repeat(starts, sizes) + 1
    is_kept = rank <= k
    return places[is_kept], rank[is_kept]


def _runs(request: Ids) -> tuple[Ids, Ids]:
    """The first row of each request, and how many it has."""
    starts = np.flatnonzero(np.diff(request, prepend=request[:1] - 1))
    return starts, np.diff(starts, append=len(request))


class _Alike(NamedTuple):
    """Requests of about one size, whose scores are the rows of a matrix: a request is no step of the interpreter.

    A request's own are the first ones of its row, where `is_own`; the rest is -inf. Row by row, they are the scores at
    `places`.
    """

    requests: Ids
    scores: Scores
    is_own: NDArray[np.bool_]
    places: Ids


def _alike(score: Scores, starts: Ids, sizes: Ids, requests: Ids) -> Iterator[_Alike]:
    requests = requests[np.argsort(sizes[requests], kind="stable")]
    while len(requests):
        num_alike = int(np.searchsorted(sizes[requests], 2 * sizes[requests[0]]))
        alike, requests = requests[:num_alike], requests[num_alike:]
        own, ends = sizes[alike], np.cumsum(sizes[alike])
        places = np.repeat(starts[alike] - ends + own, own) + np.arange(ends[-1])
        is_own = np.arange(own[-1]) < own[:, None]
        scores = np.full(is_own.shape, -np.inf)
        scores[is_own] = score[places]
        yield _Alike(alike, scores, is_own, places)


def _lowest_kept(score: Scores, starts: Ids, sizes: Ids, k: int) -> Scores:
    """The k-th highest score of each request, -inf where there are not more: [requests]."""
    lowest = np.full(len(sizes), -np.inf)
    for one in _alike(score, starts, sizes, np.flatnonzero(sizes > k)):
        lowest[one.requests] = np.partition(one.scores, -k, axis=1)[:, -k]
    return lowest


def _order(request: Ids, score: Scores, tie_break: pa.Array) -> Ids:
    """The rows by request, score and tie break; `request` is ascending."""
    starts, sizes = _runs(request)
    order = np.empty(len(request), np.int64)
    for one in _alike(score, starts, sizes, np.arange(len(sizes))):
        in_row = np.argsort(-one.scores, axis=1, kind="stable")
        order[one.places] = (starts[one.requests][:, None] + in_row)[one.is_own]
    is_tied = (score[order[1:]] == score[order[:-1]]) & (request[1:] == request[:-1])
    if is_tied.any():
        has_ties = np.zeros(len(sizes), bool)
        number = np.repeat(np.arange(len(sizes)), sizes)
        has_ties[number[1:][is_tied]] = True
        rows = np.flatnonzero(has_ties[number])
        order[rows] = rows[np.lexsort((_as_numbers(tie_break.take(pa.array(rows))), -score[rows], request[rows]))]
    return order


def _as_numbers(values: pa.Array) -> Ids:
    """Numbers in the order of the values."""
    if pa.types.is_integer(values.type):
        return np.asarray(values)
    return np.asarray(pc.rank(values, tiebreaker="dense"))
