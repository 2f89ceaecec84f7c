"""Which requests the candidate files hold: each once, found by 64-bit hashes, and compared as texts where these agree.

A run keeps 8 bytes per request for it, or 16 of files with a row per candidate, and as many while they are compared.
Keys are read as text, so that 7 and "7" are one request.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.executor import Executor, Progress, counted
from pipeline.preprocess.columns.hashing import hash64
from pipeline.preprocess.columns.text import Codes, as_codes
from pipeline.preprocess.raw_files.sources import Partition
from pipeline.score.candidates.units import Segment, read_segment


class Runs(NamedTuple):
    """Neighbouring rows of one request each: their hashes (uint64) and how many rows they are (int64), both [runs].

    `first` and `last` are the texts of the first and the last request, empty where there is none.
    """

    hashes: NDArray[np.uint64]
    lengths: NDArray[np.int64]
    first: str = ""
    last: str = ""

    @property
    def num_rows(self) -> int:
        return int(self.lengths.sum())


class FileRequests(NamedTuple):
    """The runs of all partitions of a file, in order; `is_scattered` if a request has several."""

    partitions: list[Partition]
    partition_rows: list[int]
    hashes: NDArray[np.uint64]
    lengths: NDArray[np.int64]
    is_scattered: bool

    @property
    def path(self) -> str:
        return self.partitions[0].path

    def segments(self, first: int, end: int) -> tuple[Segment, ...]:
        """Those that hold the rows from `first` to before `end`."""
        segments, start = [], 0
        for partition, num_rows in zip(self.partitions, self.partition_rows, strict=True):
            low, high = max(first - start, 0), min(end - start, num_rows)
            if low < high:
                segments.append(Segment(partition, low, high - low))
            start += num_rows
        return tuple(segments)


def find_requests(
    partitions: Sequence[Partition],
    request_key: str,
    path: str,
    executor: Executor,
    progress: Progress | None,
    *,
    has_lists: bool,
) -> list[FileRequests]:
    """The requests of each file.

    Raises:
        DataError: a request has no key, or stands in two files or, of lists, in two rows; or there is no row.
    """
    survey = partial(_find_runs, request_key, has_lists)
    surveyed = executor.map(survey, partitions)
    runs = list(counted(surveyed, "partitions surveyed", len(partitions), lambda one: one.num_rows, progress))
    if not any(one.num_rows for one in runs):
        raise DataError(f"{path} holds no row", "give a file with candidate sets")
    files = []
    for _, group in groupby(zip(partitions, runs, strict=True), lambda one: one[0].path):
        files.append(_of_file(*map(list, zip(*group, strict=True)), has_lists=has_lists))
    scattered = _check_repeats(files, request_key, has_lists=has_lists)
    return [file._replace(is_scattered=number in scattered) for number, file in enumerate(files)]


def _find_runs(request_key: str, has_lists: bool, partition: Partition) -> Runs:
    first_row = partition.first_row
    hashes: list[NDArray[np.uint64]] = []
    lengths: list[NDArray[np.int64]] = []
    first = last = None
    for table in read_segment(Segment(partition), [request_key]):
        codes, texts = read_requests(table, request_key, partition.path, first_row)
        own = hash64(texts)[codes]
        first_row += table.num_rows
        if has_lists:
            hashes.append(own)
            continue
        is_new = _changes(Codes(codes, texts), own, last)
        first = texts[int(codes[0])].as_py() if first is None else first
        last = texts[int(codes[-1])].as_py()
        starts = np.flatnonzero(is_new)
        hashes.append(own[starts])
        if not is_new[0]:
            lengths[-1][-1] += starts[0] if len(starts) else len(codes)
        if len(starts):
            lengths.append(np.diff(starts, append=len(codes)))
    whole = np.concatenate([np.zeros(0, np.uint64), *hashes])
    ones = np.broadcast_to(np.int64(1), len(whole))
    return Runs(whole, ones if has_lists else np.concatenate([ones[:0], *lengths]), first or "", last or "")


def read_requests(table: pa.Table, request_key: str, path: str, first_row: int) -> Codes:
    """The request of each row.

    Raises:
        DataError: there is none.
    """
    found = as_codes(table[request_key], f"column {request_key!r} of {path}")
    if (found.codes < 0).any():
        row = first_row + int((found.codes < 0).argmax()) + 1
        raise DataError(f"column {request_key!r} of {path}, row {row} is null", "give every request a key")
    return found


def _changes(requests: Codes, hashes: NDArray[np.uint64], last: str | None) -> NDArray[np.bool_]:
    """Which rows begin another request than that of the row before, or of `last`."""
    codes, texts = requests
    is_new = np.append(texts[int(codes[0])].as_py() != last, codes[1:] != codes[:-1])
    # One text may have two codes.
    rows = np.flatnonzero(is_new[1:] & (hashes[1:] == hashes[:-1])) + 1
    is_same = pc.equal(texts.take(pa.array(codes[rows])), texts.take(pa.array(codes[rows - 1])))
    is_new[rows[np.asarray(is_same, bool)]] = False
    return is_new


def _of_file(partitions: list[Partition], runs: list[Runs], *, has_lists: bool) -> FileRequests:
    """The runs of a file, where one that goes on in the next partition is one."""
    if has_lists:
        whole = np.concatenate([one.hashes for one in runs])
        ones = np.broadcast_to(np.int64(1), len(whole))
        return FileRequests(partitions, [one.num_rows for one in runs], whole, ones, False)
    hashes: list[NDArray[np.uint64]] = []
    lengths: list[NDArray[np.int64]] = []
    last = None
    for one in runs:
        if not len(one.hashes):
            continue
        goes_on = one.first == last
        if goes_on:
            lengths[-1][-1] += one.lengths[0]
        hashes.append(one.hashes[goes_on:])
        if len(one.lengths) > goes_on:
            lengths.append(one.lengths[goes_on:].copy())
        last = one.last
    return FileRequests(
        partitions,
        [one.num_rows for one in runs],
        np.concatenate([np.zeros(0, np.uint64), *hashes]),
        np.concatenate([np.zeros(0, np.int64), *lengths]),
        False,
    )


def _check_repeats(files: Sequence[FileRequests], request_key: str, *, has_lists: bool) -> set[int]:
    """The numbers of the files whose requests are scattered."""
    hashes = np.concatenate([file.hashes for file in files])
    in_order = np.sort(hashes)
    if not (in_order[1:] == in_order[:-1]).any():
        return set()
    order = np.argsort(hashes, kind="stable")
    is_same = hashes[order[1:]] == hashes[order[:-1]]
    pairs = np.stack([order[:-1][is_same], order[1:][is_same]], axis=1)
    ends = np.cumsum([len(file.hashes) for file in files])
    file_of_P2 = np.searchsorted(ends, pairs, "right")
    is_within = file_of_P2[:, 0] == file_of_P2[:, 1]
    refused = pairs if has_lists else pairs[~is_within]
    for pair in refused[np.argsort(refused[:, 0])].tolist():
        _refuse_repeat([_place_of(files, ends, run) for run in pair], request_key, has_lists=has_lists)
    return set() if has_lists else set(file_of_P2[is_within, 0].tolist())


def _place_of(files: Sequence[FileRequests], ends: NDArray[np.int64], run: int) -> tuple[FileRequests, int]:
    """The file of a run, and its first row there."""
    number = int(np.searchsorted(ends, run, "right"))
    file = files[number]
    return file, int(file.lengths[: run - ends[number] + len(file.hashes)].sum())


def _refuse_repeat(places: list[tuple[FileRequests, int]], request_key: str, *, has_lists: bool) -> None:
    texts = []
    for file, row in places:
        table = next(_rows_of(file, row, request_key))
        codes, distinct = as_codes(table[request_key], request_key)
        texts.append(distinct[int(codes[0])].as_py())
    if texts[0] == texts[1]:
        shown = " and in ".join(f"{file.path}, row {row + 1}" for file, row in places)
        fix = "give each request one row" if has_lists else "put all candidates of a request into one file"
        raise DataError(f"request {texts[0]} stands in {shown}", fix)


def _rows_of(file: FileRequests, row: int, request_key: str) -> Iterator[pa.Table]:
    (segment,) = file.segments(row, row + 1)
    return read_segment(segment, [request_key])
