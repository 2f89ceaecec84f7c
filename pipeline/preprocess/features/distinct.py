"""The distinct texts of an embedding table: those of one part of the log, and their sum over all parts."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.feature_kinds import UNSEEN_ROW
from pipeline.preprocess.columns.hashing import hash64
from pipeline.preprocess.columns.text import Codes
from pipeline.preprocess.features.vocabulary import BATCH_VALUES, FILE_SCHEMA, Vocabulary, write_batches
from pipeline.preprocess.profiles.profile import ValueProfile

# So many texts with their counts are merged at a time, whatever the number of distinct ones.
MAX_MERGED_VALUES = 8_000_000
HASH_RANGE = 1 << 64


class Column(NamedTuple):
    """The values of one feature: their codes, and which of them are of training rows (bool)."""

    codes: Codes
    is_training: np.ndarray


def distinct_texts(columns: Sequence[Column]) -> tuple[pa.RecordBatch, list[pa.Array]]:
    """The distinct texts of the features of one table, with their training counts, in the order of their hash.

    Also the place of each feature's values among them, in the narrowest unsigned type; that of null is their number.
    """
    texts = pa.chunked_array([column.codes.texts for column in columns], pa.string()).combine_chunks()
    hashes = hash64(texts)
    order = np.argsort(hashes)
    if len(order) and (np.diff(hashes[order]) == 0).any():  # texts that are equal, if not two with one hash
        encoded = texts.dictionary_encode()
        texts, distinct_of_text = encoded.dictionary, np.asarray(encoded.indices)
        hashes = hash64(texts)
        order = np.argsort(hashes)
    else:
        distinct_of_text = np.arange(len(texts))
    place_type = np.min_scalar_type(len(order))
    place_of_distinct = np.empty(len(order), place_type)
    place_of_distinct[order] = np.arange(len(order), dtype=place_type)
    counts = np.zeros(len(order), np.int64)
    places, first = [], 0
    for column in columns:
        end = first + len(column.codes.texts)
        own = place_of_distinct[distinct_of_text[first:end]]
        codes = column.codes.codes
        training = codes if column.is_training.all() else codes[column.is_training]
        # Arrow takes narrow values by narrow indices several times faster than numpy, and has no negative indices.
        places.append(pa.array(np.append(np.array([len(order)], place_type), own)).take(pa.array(codes + 1)))
        np.add.at(counts, own, np.bincount(training + 1, minlength=1 + end - first)[1:])
        first = end
    values = texts.take(pa.array(order))
    return pa.RecordBatch.from_arrays([values, pa.array(counts), pa.array(hashes[order])], schema=FILE_SCHEMA), places


class Range(NamedTuple):
    """One range of hashes of one table: place `number` of `num_ranges`."""

    table: str
    number: int
    num_ranges: int

    def path(self, folder: Path) -> Path:
        return folder / f"merged-{self.number:05d}.{self.table}.arrow"


class Merged(NamedTuple):
    """Of the training values of a range: their profile, and how many of those that may be kept have each count."""

    range: Range
    profile: ValueProfile
    values_by_count: dict[int, int]


def plan_ranges(num_distinct: Mapping[str, int]) -> list[Range]:
    """The ranges that the texts of each table are merged in, given how many all parts have together."""
    ranges = []
    for table, number in num_distinct.items():
        num_ranges = max(1, -(-number // MAX_MERGED_VALUES))
        ranges += [Range(table, place, num_ranges) for place in range(num_ranges)]
    return ranges


def merge_range(
    folder: Path,
    num_parts: int,
    tables: Sequence[str],
    min_counts: Mapping[str, int],
    earlier: Mapping[str, Vocabulary],
    one: Range,
) -> Merged:
    """Adds up the training counts of all parts for one range, and writes the values that are frequent enough.

    `tables` are all tables in the order that the parts have them in. Values of an earlier vocabulary are left out.
    """
    place = tables.index(one.table)
    paths = [folder / f"part-{number:05d}.texts.arrow" for number in range(num_parts)]
    table = pa.concat_tables([read_range(path, place, one) for path in paths])
    table = table.filter(pc.greater(table.column("count"), 0))
    sums = table.group_by(["value", "hash"], use_threads=False).aggregate([("count", "sum")])
    sums = sums.select(["value", "count_sum", "hash"]).rename_columns(FILE_SCHEMA.names).cast(FILE_SCHEMA)
    kept = sums.filter(pc.greater_equal(sums.column("count"), min_counts[one.table]))
    kept = kept.sort_by([("hash", "ascending"), ("value", "ascending")]).combine_chunks()
    if one.table in earlier and len(kept):
        texts, hashes = kept.column("value").combine_chunks(), np.asarray(kept.column("hash"))
        kept = kept.filter(pa.array(earlier[one.table].rows_of(texts, hashes) == UNSEEN_ROW))
    write_batches(one.path(folder), lambda: kept.to_batches(BATCH_VALUES), kept.nbytes)
    counts, numbers = np.unique(np.asarray(kept.column("count")), return_counts=True)
    return Merged(one, ValueProfile.of(sums), dict(zip(counts.tolist(), numbers.tolist(), strict=True)))


def write_vocabulary(
    folder: Path, merged: Sequence[Merged], max_size: int | None, earlier: Vocabulary | None, path: Path
) -> int:
    """Writes a table's vocabulary: the earlier one, then the new values of its ranges, the most frequent `max_size`.

    Of values that are equally frequent at the limit, those with the lowest hashes are kept. No earlier value gives way
    to a new one. Returns how many new values were frequent enough and found no room.
    """
    num_new = sum(sum(one.values_by_count.values()) for one in merged)
    room = num_new if max_size is None else max(max_size - (earlier.num_values if earlier else 0), 0)
    least, num_ties = _threshold(merged, room)

    def batches() -> Iterator[pa.RecordBatch]:
        ties_left = num_ties
        yield from earlier.batches if earlier else ()
        for one in merged:
            for batch in map_batches(one.range.path(folder)):
                counts = np.asarray(batch.column("count"))
                is_tie = counts == least
                is_kept = (counts > least) | (is_tie & (np.cumsum(is_tie) <= ties_left))
                ties_left = max(ties_left - int(is_tie.sum()), 0)
                yield batch.filter(pa.array(is_kept))

    write_batches(path, batches)
    return max(num_new - room, 0)


def _threshold(merged: Sequence[Merged], room: int) -> tuple[int, int]:
    """The least count of a value that is kept, and how many values with exactly that count are."""
    total: Counter[int] = Counter()
    for one in merged:
        total.update(one.values_by_count)
    if sum(total.values()) <= room:
        return 0, 0
    taken = 0
    for count in sorted(total, reverse=True):
        if taken + total[count] > room:
            return count, room - taken
        taken += total[count]
    raise AssertionError("unreachable")


def map_batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def read_range(path: Path, place: int, one: Range) -> pa.Table:
    """The rows of a range, of the batch at a place of a file whose batches are in the order of their column `hash`."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        table = pa.Table.from_batches([reader.get_batch(place)])
    low, high = (HASH_RANGE * number // one.num_ranges for number in (one.number, one.number + 1))
    hashes = np.asarray(table.column("hash"))
    first = np.searchsorted(hashes, np.uint64(low))
    end = len(hashes) if high >= HASH_RANGE else np.searchsorted(hashes, np.uint64(high))
    return table.slice(first, end - first)
