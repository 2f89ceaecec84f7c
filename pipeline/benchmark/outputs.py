"""What preprocessing wrote, whoever did it, and whether two outputs are the same work: ids may differ, rows may not."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.benchmark.log import LABELS, START_US, TICK_US, TIME, LogSpec
from pipeline.shards.manifest import (
    DENSE_COLUMN,
    KEY_PREFIX,
    LABELS_COLUMN,
    SPARSE_PREFIX,
    SPLITS,
    Split,
    read_index,
)
from pipeline.shards.vocabularies import VALUE_COLUMN, VOCABULARIES_FOLDER, vocabulary_path

ID_COLUMN = "id"
UNSEEN_ID, NULL_ID, FIRST_ID = 0, 1, 2
UNSEEN_TEXT = "(unseen)"
SAMPLE_ROWS = 100_000
MAX_DIFFERENCE = 1e-5


class Output(Protocol):
    def vocabulary(self, feature: str) -> pa.Table:
        """The values of a categorical, `value` (string) and `id` (int64), in any order."""
        ...

    def batches(self, split: Split) -> Iterator[pa.RecordBatch]:
        """The rows of a split in any order: categoricals as ids, numbers, labels and the time, by the log's names."""
        ...


@dataclass(frozen=True)
class DatasetOutput:
    """A dataset of Gatehouse."""

    folder: Path
    spec: LogSpec

    def vocabulary(self, feature: str) -> pa.Table:
        values = _read_ipc(vocabulary_path(self.folder, feature)).read_all().column(VALUE_COLUMN)
        return pa.table({VALUE_COLUMN: values, ID_COLUMN: np.arange(FIRST_ID, FIRST_ID + len(values))})

    def batches(self, split: Split) -> Iterator[pa.RecordBatch]:
        for shard in read_index(self.folder).of_split(split):
            reader = _read_ipc(self.folder / shard.path)
            for batch in map(reader.get_batch, range(reader.num_record_batches)):
                columns = {name: batch.column(SPARSE_PREFIX + name) for name in self.spec.categoricals}
                for packed, names in ((DENSE_COLUMN, self.spec.numbers), (LABELS_COLUMN, LABELS)):
                    values = batch.column(packed).flatten().to_numpy().reshape(-1, len(names))
                    columns |= {name: pa.array(values[:, place]) for place, name in enumerate(names)}
                yield pa.RecordBatch.from_pydict({**columns, TIME: batch.column(KEY_PREFIX + "time")})


@dataclass(frozen=True)
class FilesOutput:
    """A folder of Parquet or Arrow IPC files for each split, and a file for each vocabulary."""

    folder: Path

    def vocabulary(self, feature: str) -> pa.Table:
        (path,) = (self.folder / VOCABULARIES_FOLDER).glob(f"{feature}.*")
        table = pa.Table.from_batches(list(_read_file(path)))
        values, ids = table.column(VALUE_COLUMN).cast(pa.string()), table.column(ID_COLUMN).cast(pa.int64())
        return pa.table({VALUE_COLUMN: values, ID_COLUMN: ids})

    def batches(self, split: Split) -> Iterator[pa.RecordBatch]:
        for path in sorted((self.folder / split).iterdir()):
            yield from _read_file(path)


@dataclass(frozen=True)
class Findings:
    """What is compared of an output: facts that are equal, means that are nearly so, and some rows, texts restored."""

    facts: dict[str, int | str]
    means: dict[str, float]
    sample: pa.Table

    @property
    def num_values(self) -> int:
        return sum(int(fact) for name, fact in self.facts.items() if name.startswith("number of values"))


def inspect(output: Output, spec: LogSpec) -> Findings:
    """Reads an output whole, batch by batch."""
    facts: dict[str, int | str] = {}
    texts: dict[str, pa.Array] = {}
    for name in spec.categoricals:
        table = output.vocabulary(name)
        in_order = table.sort_by(ID_COLUMN)
        has_all_ids = np.array_equal(in_order[ID_COLUMN], np.arange(FIRST_ID, FIRST_ID + len(table)))
        facts[f"number of values of {name}"] = len(table)
        facts[f"sha256 over the sorted values of {name}"] = _digest(table[VALUE_COLUMN])
        facts[f"ids of {name}"] = "2 and what follows" if has_all_ids else "with gaps or twice"
        texts[name] = pa.concat_arrays([pa.array([UNSEEN_TEXT, None]), *in_order[VALUE_COLUMN].chunks])
    means: dict[str, float] = {}
    samples = []
    for split in SPLITS:
        counts = dict.fromkeys([*(f"{kind} {name}" for name in spec.categoricals for kind in ("unseen", "null"))], 0)
        sums, num_rows = dict.fromkeys([*spec.numbers, *LABELS], 0.0), 0
        types: set[str] = set()
        for batch in output.batches(split):
            num_rows += len(batch)
            types |= {f"{name} {batch.column(name).type}" for name in (*spec.categoricals, *sums)}
            for name in spec.categoricals:
                ids = batch.column(name).to_numpy()
                counts[f"unseen {name}"] += int((ids == UNSEEN_ID).sum())
                counts[f"null {name}"] += int((ids == NULL_ID).sum())
            for name in sums:
                sums[name] += float(batch.column(name).to_numpy().sum(dtype=np.float64))
            samples.append(_sample(batch, split, spec, texts))
        facts |= {f"rows of {split}": num_rows, f"types in {split}": ", ".join(sorted(types))}
        facts |= {f"{name} in {split}": count for name, count in counts.items()}
        means |= {f"mean {name} in {split}": total / max(num_rows, 1) for name, total in sums.items()}
    return Findings(facts, means, pa.concat_tables(samples).sort_by(TIME))


def find_differences(expected: Findings, found: Findings) -> list[str]:
    """What is not the same in two outputs, one sentence each."""
    differences = [
        f"{name}: {fact} and {found.facts.get(name)}"
        for name, fact in expected.facts.items()
        if fact != found.facts.get(name)
    ]
    differences += [
        f"{name}: {mean:.7f} and {found.means[name]:.7f}"
        for name, mean in expected.means.items()
        if not abs(mean - found.means[name]) <= MAX_DIFFERENCE
    ]
    if not expected.sample[TIME].equals(found.sample[TIME]):
        return [*differences, "the rows of the sample are not the same"]
    for name in expected.sample.drop_columns([TIME]).column_names:
        ours, theirs = expected.sample[name], found.sample[name]
        if pa.types.is_floating(ours.type):
            is_equal = np.abs(ours.to_numpy() - theirs.to_numpy()) <= MAX_DIFFERENCE
        else:
            is_equal = np.asarray(pc.equal(ours.fill_null(""), theirs.fill_null("")))
        if not is_equal.all():
            row = int(np.argmin(is_equal))
            shown = f"{ours[row].as_py()} and {theirs[row].as_py()} at {expected.sample[TIME][row].as_py()}"
            differences.append(f"{name} in {len(ours) - is_equal.sum()} rows of the sample, the first with {shown}")
    return differences


def _sample(batch: pa.RecordBatch, split: str, spec: LogSpec, texts: dict[str, pa.Array]) -> pa.Table:
    """Every so many rows of the log, as far as they are in the batch."""
    time = batch.column(TIME).cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    every = max(1, spec.num_rows // SAMPLE_ROWS)
    chosen = batch.filter(pa.array((time - START_US) // TICK_US % every == 0))
    columns = {"split": pa.array([split] * len(chosen), pa.string())}
    for name in spec.categoricals:
        ids = chosen.column(name).to_numpy()
        columns[name] = texts[name].take(pa.array(np.where(ids < len(texts[name]), ids, UNSEEN_ID)))
    for name in (*spec.numbers, *LABELS):
        columns[name] = chosen.column(name)
    return pa.table({**columns, TIME: chosen.column(TIME).cast(pa.timestamp("us")).cast(pa.int64())})


def _digest(values: pa.ChunkedArray) -> str:
    digest = hashlib.sha256()
    for text in pc.take(values, pc.sort_indices(values)).to_pylist():
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def _read_ipc(path: Path) -> pa.ipc.RecordBatchFileReader:
    return pa.ipc.open_file(pa.memory_map(str(path)))


def _read_file(path: Path) -> Iterator[pa.RecordBatch]:
    if path.suffix == ".parquet":
        yield from pq.ParquetFile(path).iter_batches(1 << 18)
        return
    reader = _read_ipc(path)
    yield from map(reader.get_batch, range(reader.num_record_batches))
