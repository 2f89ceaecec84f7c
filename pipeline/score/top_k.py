"""The k best rows of each request, in an order that does not depend on the order of the input."""

import numpy as np
from numpy.typing import NDArray


def top_k(
    request: NDArray[np.int64], score: NDArray[np.float64], tie_break: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places of the rows kept and the rank of each, from 1: request by request, the highest score first.

    `request` numbers the request of each row; requests come out in the order of their numbers. Rows of equal score are
    ordered by `tie_break`, the lowest first. All arrays: [rows].
    """
    order = np.lexsort((tie_break, -score, request))
    starts = np.flatnonzero(np.diff(request[order], prepend=request[order][:1] - 1))
    sizes = np.diff(starts, append=len(order))
    rank = np.arange(len(order)) - np.repeat(starts, sizes) + 1
    kept = rank <= k
    return order[kept], rank[kept]
