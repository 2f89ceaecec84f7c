"""Which row of an embedding table a value has: by a vocabulary of the training rows, or by a hash."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ArtifactError
from pipeline.files import write_atomically
from pipeline.preprocess.hashing import hash64
from pipeline.preprocess.text import Codes
from pipeline.schema import NULL_ROW, NUM_RESERVED_ROWS, UNSEEN_ROW

FILE_SCHEMA = pa.schema([pa.field("value", pa.string(), nullable=False), pa.field("count", pa.int64(), nullable=False)])
# Counts of partitions are added up when this many have gathered.
MAX_PENDING_VALUES = 4_000_000


@dataclass(frozen=True)
class Vocabulary:
    """The values of a table with their training counts, row `NUM_RESERVED_ROWS` first."""

    table: pa.Table

    @classmethod
    def select(cls, counts: pa.Table, min_count: int, max_size: int | None) -> "Vocabulary":
        """Of value counts, those with at least `min_count`, the most frequent `max_size`; a tie goes by text."""
        kept = counts.filter(pc.greater_equal(counts.column("count"), min_count))
        kept = kept.sort_by([("count", "descending"), ("value", "ascending")]).slice(0, max_size)
        return cls(kept.cast(FILE_SCHEMA).combine_chunks())

    @property
    def num_rows(self) -> int:
        return NUM_RESERVED_ROWS + len(self.table)

    def rows_of(self, texts: pa.StringArray) -> np.ndarray:
        """The int64 row of each text; `UNSEEN_ROW` for one that the vocabulary lacks."""
        places = pc.index_in(texts, self.table.column("value").combine_chunks())
        return np.asarray(pc.fill_null(pc.add(places, NUM_RESERVED_ROWS), UNSEEN_ROW)).astype(np.int64)

    def fingerprint(self) -> str:
        """A sha256 over the values in their order."""
        digest = hashlib.sha256()
        for value in self.table.column("value").to_pylist():
            text = value.encode()
            digest.update(len(text).to_bytes(8, "little") + text)
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        def write(temporary: Path) -> None:
            with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, FILE_SCHEMA) as writer:
                writer.write_table(self.table)

        write_atomically(path, write, self.table.nbytes)

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Raises an ArtifactError when the file is not there or is no vocabulary."""
        try:
            with pa.OSFile(str(path), "rb") as file, pa.ipc.open_file(file) as reader:
                table = reader.read_all().cast(FILE_SCHEMA)
            table.validate(full=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise ArtifactError(f"vocabulary {path} cannot be read: {reason}", "run `preprocess` again") from error
        return cls(table.combine_chunks())


@dataclass(frozen=True)
class HashBuckets:
    """A table without a vocabulary: a value's row comes from its hash, so no value is unseen."""

    num_buckets: int

    @property
    def num_rows(self) -> int:
        return NUM_RESERVED_ROWS + self.num_buckets

    def rows_of(self, texts: pa.StringArray) -> np.ndarray:
        return NUM_RESERVED_ROWS + (hash64(texts) % np.uint64(self.num_buckets)).astype(np.int64)

    def fingerprint(self) -> str:
        return f"hash64 into {self.num_buckets}"


Encoding = Vocabulary | HashBuckets


def encode(codes: Codes, encoding: Encoding) -> np.ndarray:
    """The int64 table row of each value: `NULL_ROW` for null."""
    rows: np.ndarray = np.append(encoding.rows_of(codes.texts), NULL_ROW)[codes.codes]
    return rows


def count_values(codes: Codes) -> pa.Table:
    """How often each text occurs (columns value, count); a text may stand in several rows."""
    counts = np.bincount(codes.codes[codes.codes >= 0], minlength=len(codes.texts))
    table = pa.table([codes.texts, pa.array(counts, pa.int64())], schema=FILE_SCHEMA)
    return table.filter(pc.greater(table.column("count"), 0))


class ValueCounts:
    """The sum of many tables of counts, in memory that grows with the distinct values only."""

    def __init__(self) -> None:
        self._total = FILE_SCHEMA.empty_table()
        self._pending: list[pa.Table] = []

    def add(self, counts: pa.Table) -> None:
        self._pending.append(counts)
        if sum(map(len, self._pending)) > max(MAX_PENDING_VALUES, len(self._total)):
            self.total()

    def total(self) -> pa.Table:
        """Columns value and count, each value once, in no fixed order."""
        if self._pending:
            groups = pa.concat_tables([self._total, *self._pending]).group_by("value").aggregate([("count", "sum")])
            self._total = pa.table([groups.column("value"), groups.column("count_sum")], schema=FILE_SCHEMA)
            self._pending = []
        return self._total
