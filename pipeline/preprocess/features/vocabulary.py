"""Which row of an embedding table a value has: by a vocabulary that only grows, or by a hash.

A vocabulary is a file of values in the order of their rows. Each fit adds a segment; within a segment values are in the
order of their hash, so that a lookup is a binary search in memory that is mapped, not read, and so that the rows of
frequent values are spread over the table.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ArtifactError
from pipeline.feature_kinds import NULL_ROW, NUM_RESERVED_ROWS, UNSEEN_ROW
from pipeline.files import retry, write_atomically
from pipeline.preprocess.columns.hashing import hash64
from pipeline.preprocess.columns.text import Codes
from pipeline.shards.vocabularies import digest_values

FILE_SCHEMA = pa.schema(
    [
        pa.field("value", pa.string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("hash", pa.uint64(), nullable=False),
    ]
)
BATCH_VALUES = 1 << 20


@dataclass(frozen=True)
class Vocabulary:
    """The values of a table with the training counts of the fit that added them, row `NUM_RESERVED_ROWS` first.

    No batch holds values of two segments. One that was loaded is pickled as the path of its file: tasks map it too, and
    no process holds all values.
    """

    batches: tuple[pa.RecordBatch, ...]
    path: Path | None = None

    @classmethod
    def of(cls, texts: Sequence[str], counts: Sequence[int] | None = None) -> "Vocabulary":
        """One segment of distinct texts, each with its training count or 1."""
        values = pa.array(texts, pa.string())
        hashes = hash64(values)
        columns = [values, pa.array(counts or [1] * len(texts), pa.int64()), pa.array(hashes)]
        batch = pa.RecordBatch.from_arrays(columns, schema=FILE_SCHEMA)
        return cls((batch.take(pa.array(np.argsort(hashes, kind="stable"))),) if len(batch) else ())

    @property
    def num_values(self) -> int:
        return sum(map(len, self.batches))

    @property
    def num_rows(self) -> int:
        return NUM_RESERVED_ROWS + self.num_values

    def rows_of(self, texts: pa.StringArray, hashes: np.ndarray | None = None) -> np.ndarray:
        """The int64 row of each text; `UNSEEN_ROW` for one that the vocabulary lacks. `hashes` are their `hash64`."""
        hashes = hash64(texts) if hashes is None else hashes
        order = np.argsort(hashes)
        queries = hashes[order]
        rows = np.full(len(texts), UNSEEN_ROW, np.int64)
        for first_row, batch in zip(self._first_rows, self.batches, strict=True):
            known = np.asarray(batch.column("hash"))
            low, high = np.searchsorted(queries, known[0], "left"), np.searchsorted(queries, known[-1], "right")
            places = np.searchsorted(known, queries[low:high])
            pending = np.flatnonzero(known[places] == queries[low:high])
            while len(pending):
                wanted = texts.take(pa.array(order[low + pending]))
                is_same = np.asarray(pc.equal(batch.column("value").take(pa.array(places[pending])), wanted))
                rows[order[low + pending[is_same]]] = first_row + places[pending[is_same]]
                # Another text has the same hash: the next value may be the right one.
                pending = pending[~is_same]
                places[pending] += 1
                pending = pending[places[pending] < len(known)]
                pending = pending[known[places[pending]] == queries[low + pending]]
        return rows

    @cached_property
    def _first_rows(self) -> list[int]:
        ends = itertools.accumulate(map(len, self.batches), initial=NUM_RESERVED_ROWS)
        return list(ends)[: len(self.batches)]

    def fingerprint(self) -> str:
        """A sha256 over the values in their order."""
        return digest_values([batch.column("value") for batch in self.batches])

    def save(self, path: Path) -> None:
        write_batches(path, lambda: self.batches, sum(batch.nbytes for batch in self.batches))

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """A vocabulary in memory that is mapped.

        Raises:
            ArtifactError: the file is not there or is no vocabulary.
        """

        try:
            vocabulary = retry(lambda: cls._map(path), path)
            for batch in vocabulary.batches:
                batch.validate(full=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise ArtifactError(f"vocabulary {path} cannot be read: {reason}", "run `preprocess` again") from error
        return vocabulary

    @classmethod
    def _map(cls, path: Path) -> "Vocabulary":
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            if not reader.schema.equals(FILE_SCHEMA):
                raise ValueError(f"it has the columns {', '.join(reader.schema.names)}")
            return cls(tuple(map(reader.get_batch, range(reader.num_record_batches))), path.absolute())

    def __reduce__(self) -> tuple[Any, ...]:
        return (Vocabulary._map, (self.path,)) if self.path else (Vocabulary, (self.batches,))


def write_batches(path: Path, make: Callable[[], Iterable[pa.RecordBatch]], num_bytes: int | None = None) -> None:
    """Writes the batches of `FILE_SCHEMA` that `make` gives to a file, one after the other."""

    def write(temporary: Path) -> None:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, FILE_SCHEMA) as writer:
            for batch in make():
                if len(batch):
                    writer.write_batch(batch)

    retry(lambda: write_atomically(path, write, num_bytes), path)


@dataclass(frozen=True)
class HashBuckets:
    """A table without a vocabulary: a value's row comes from its hash, so no value is unseen."""

    num_buckets: int

    @property
    def num_rows(self) -> int:
        return NUM_RESERVED_ROWS + self.num_buckets

    def rows_of(self, texts: pa.StringArray, hashes: np.ndarray | None = None) -> np.ndarray:
        hashes = hash64(texts) if hashes is None else hashes
        return NUM_RESERVED_ROWS + (hashes % np.uint64(self.num_buckets)).astype(np.int64)

    def fingerprint(self) -> str:
        return f"hash64 into {self.num_buckets}"


class Rows(Protocol):
    """What gives each text its row."""

    def rows_of(self, texts: pa.StringArray, hashes: np.ndarray | None = None) -> np.ndarray: ...


def encode(codes: Codes, encoding: Rows) -> np.ndarray:
    """The int64 table row of each value: `NULL_ROW` for null."""
    rows: np.ndarray = np.append(encoding.rows_of(codes.texts), NULL_ROW)[codes.codes]
    return rows
