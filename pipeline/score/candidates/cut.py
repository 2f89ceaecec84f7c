"""The units of a run: all candidate files, cut where a request ends."""

from itertools import pairwise
from pathlib import Path

import numpy as np

from pipeline.executor import Executor, Progress
from pipeline.preprocess.raw_files.sources import Partition, plan_partitions
from pipeline.score.candidates.plan import CandidatePlan
from pipeline.score.candidates.regroup import Scattered, bucket_of, regroup_file
from pipeline.score.candidates.requests import FileRequests, find_requests
from pipeline.score.candidates.units import Segment, Unit, cut_at

# A unit is some row groups with about so many requests, or rows of candidates; or a part of a larger one.
REQUESTS_PER_UNIT = 20_000
ROWS_PER_UNIT = 1_000_000
# A part of a row group is decoded from the group's beginning, and a part of a range of text from its own.
MAX_UNITS_PER_GROUP = 8
# Of one file: each is open while the rows are written.
MAX_BUCKETS = 256


def cut_units(
    plan: CandidatePlan, unzipped: Path, regrouped: Path, executor: Executor, progress: Progress | None
) -> list[Unit]:
    """The units of all files, in order. Two folders are for what of them has to be written anew.

    Raises:
        DataError: a file cannot be read; a request has no key, or stands in two files or two lists; or there is none.
        StorageError: the disk is full.
    """
    rows_per_partition = REQUESTS_PER_UNIT if plan.has_lists else ROWS_PER_UNIT
    partitions = plan_partitions(plan.source, rows_per_partition, executor, unzipped)
    files = find_requests(partitions, plan.request_key, plan.source.path, executor, progress, has_lists=plan.has_lists)
    scattered = [
        Scattered(
            tuple(file.partitions),
            plan.columns,
            plan.request_key,
            min(-(-int(file.lengths.sum()) // ROWS_PER_UNIT), MAX_BUCKETS),
            regrouped / f"file-{number:05d}",
        )
        for number, file in enumerate(files)
        if file.is_scattered
    ]
    regrouped_files = zip(scattered, executor.map(regroup_file, scattered), strict=True)
    buckets = {one.path: (one.num_buckets, partitions) for one, partitions in regrouped_files}
    units: list[Unit] = []
    for file in files:
        if file.is_scattered:
            units += _of_buckets(file, *buckets[file.path], len(units))
        else:
            units += _of_lists(file, len(units)) if plan.has_lists else _of_rows(file, len(units))
    return units


def _of_lists(file: FileRequests, number: int) -> list[Unit]:
    units: list[Unit] = []
    for partition, num_rows in zip(file.partitions, file.partition_rows, strict=True):
        is_text = not partition.groups
        size = num_rows if is_text else max(REQUESTS_PER_UNIT, -(-num_rows // MAX_UNITS_PER_GROUP))
        for first in range(0, num_rows, max(size, 1)):
            num_requests = min(size, num_rows - first)
            units.append(Unit(number + len(units), (Segment(partition, first, num_requests),), num_requests))
    return units


def _of_rows(file: FileRequests, number: int) -> list[Unit]:
    ends = np.append(0, np.cumsum(file.lengths))
    size = max(ROWS_PER_UNIT, -(-max(file.partition_rows) // MAX_UNITS_PER_GROUP))
    units: list[Unit] = []
    for first, end in pairwise(cut_at(file.lengths, size)):
        if first < end:
            segments = file.segments(int(ends[first]), int(ends[end]))
            units.append(Unit(number + len(units), segments, end - first, file.lengths[first:end]))
    return units


def _of_buckets(file: FileRequests, num_buckets: int, buckets: dict[int, Partition], number: int) -> list[Unit]:
    num_requests = np.bincount(bucket_of(np.unique(file.hashes), num_buckets))
    return [
        Unit(number + place, (Segment(partition),), int(num_requests[bucket]), regrouped_from=file.path)
        for place, (bucket, partition) in enumerate(buckets.items())
    ]
