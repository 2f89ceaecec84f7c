"""Whether ranked candidates are what scoring each candidate by itself gives: the same outputs, the same best ones."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import ArtifactError

REQUEST, ITEM, RANK, SCORE = "request_id", "item_id", "rank", "score"
MAX_DIFFERENCE = 1e-6
Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Agreement:
    """What was compared. `largest_difference` is over all outputs and scores, each as a fraction of its largest value
    if that is above 1: float32 cannot tell hundreds of seconds from each other as finely as probabilities.

    `num_swapped` ranks have another item than a ranking of the plain scores, one whose plain score is the same to
    `MAX_DIFFERENCE`.
    """

    num_requests: int
    num_rows: int
    largest_difference: float
    num_swapped: int


def read_columns(folder: Path) -> Columns:
    """All Parquet files of a folder: a column of numbers by name, and no others."""
    table = pa.concat_tables([pq.read_table(path) for path in sorted(folder.rglob("*.parquet"))])
    kept = [field.name for field in table.schema if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)]
    return {name: table[name].to_numpy() for name in kept}


def fuse(outputs: Columns) -> NDArray[np.float64]:
    """The workload's fusion, not by Gatehouse's own parser."""
    score: NDArray[np.float64] = outputs["click"] * outputs["purchase"] ** 0.5
    return score


def compare_ranking(ranked: Columns, plain: Columns, k: int) -> Agreement:
    """Compares the k best of each request, as Gatehouse wrote them, with the outputs of every candidate.

    `plain` has REQUEST, ITEM and the outputs; `ranked` has RANK and SCORE besides; items are distinct in a request.

    Raises:
        ArtifactError: rows are missing or too many, or a number or a rank is not the same to `MAX_DIFFERENCE`.
    """
    score = fuse(plain)
    order = np.lexsort((plain[ITEM], -score, plain[REQUEST]))
    rank = _rank(plain[REQUEST][order])
    best, best_rank = order[rank <= k], rank[rank <= k]
    own = np.lexsort((ranked[RANK], ranked[REQUEST]))
    found = {name: values[own] for name, values in ranked.items()}
    for what, theirs, ours in (
        ("requests", plain[REQUEST][best], found[REQUEST]),
        ("ranks", best_rank, found[RANK]),
    ):
        if not np.array_equal(theirs, ours):
            raise _difference(f"the {what} of its {len(ours):,} rows are not those of the {len(theirs):,} best ones")

    row = _rows_of(plain, found)
    outputs = [name for name in plain if name not in (REQUEST, ITEM)]
    pairs = {name: (found[name], plain[name][row]) for name in outputs} | {SCORE: (found[SCORE], score[row])}
    # At every rank stands an item that is as good as the one that belongs there.
    pairs[RANK] = (score[row], score[best])
    differences = {name: _largest_difference(*pair) for name, pair in pairs.items()}
    for name, difference in differences.items():
        if not difference <= MAX_DIFFERENCE:
            raise _difference(f"{name} differs by {difference:.1e}")
    return Agreement(len(np.unique(found[REQUEST])), len(row), max(differences.values()), int((row != best).sum()))


def _rank(request: NDArray[Any]) -> NDArray[np.int64]:
    """The place of each row among those of its request, from 1; the requests lie one after the other."""
    starts = np.flatnonzero(np.diff(request, prepend=request[:1] - 1))
    sizes = np.diff(starts, append=len(request))
    return np.arange(len(request)) - np.repeat(starts, sizes) + 1


def _rows_of(plain: Columns, found: Columns) -> NDArray[np.int64]:
    """The plain row of each ranked candidate."""
    stride = max(plain[ITEM].max(), found[ITEM].max()) + 1
    key, wanted = (rows[REQUEST] * stride + rows[ITEM] for rows in (plain, found))
    order = np.argsort(key)
    row: NDArray[np.int64] = order[np.searchsorted(key, wanted, sorter=order).clip(max=len(key) - 1)]
    if not np.array_equal(key[row], wanted):
        raise _difference("an item was no candidate of its request")
    return row


def _largest_difference(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    return float(np.max(np.abs(ours - theirs)) / max(1.0, np.max(np.abs(theirs))))


def _difference(what: str) -> ArtifactError:
    return ArtifactError(
        f"the ranked candidates are not those of scoring row by row: {what}",
        "mend the one that is wrong: only the same work can be compared",
    )
