"""The prediction table: a row per impression with what was predicted and what happened, in parts that lie in a folder.

A part is an Arrow file of one record batch whose rows are in the order of `unit_hash`. What is resampled and merged as
a whole is a unit: the row's user, without a user key its request, without both the row. The columns:

unit_hash, uint64; user and request, the uint64 hashes of the raw keys, null where a row has none, there if the schema
has the key; weight, float64; label_<task>, float64, null without a label; prediction_<output>, baseline_<output> and
truth_<output>, float64, NaN for none; slice_<dimension>, dictionary<int32, string>, the same dictionary in every part.

Shapes: N rows.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.files import retry, write_atomically
from pipeline.preprocess.columns.hashing import hash64
from pipeline.preprocess.columns.text import as_codes
from pipeline.preprocess.profiles.sample import RowOrder
from pipeline.schema import KeyColumns, TaskSchema

UNIT_COLUMN = "unit_hash"
USER_COLUMN, REQUEST_COLUMN = "user", "request"
WEIGHT_COLUMN = "weight"
LABEL_PREFIX, SLICE_PREFIX = "label_", "slice_"
PREDICTION_PREFIX, BASELINE_PREFIX, TRUTH_PREFIX = "prediction_", "baseline_", "truth_"

# Another one than that of splits and vocabularies: the users of a split by hash would fill a tenth of the range.
HASH_SEED = 0x67726F7570
_SUMMARY_KEY = b"summary"

FloatArray = NDArray[np.float64]
Scope = Literal["own space", "all impressions"]


class Measured(NamedTuple):
    """What is measured: a task on its own space, or, of a conditional binary task, its joint on all impressions.

    `outputs` are what is predicted: a value, or one per class. `chain` are the tasks that its space depends on, the
    first one first, and last the task itself.
    """

    name: str
    kind: Literal["binary", "multiclass", "regression", "watch_time"]
    space: str | None
    scope: Scope
    outputs: tuple[str, ...]
    chain: tuple[str, ...]

    def select_labels(self, labels: Mapping[str, FloatArray]) -> FloatArray:
        """The label of each row, NaN on the rows that are not measured: [N]. `labels` are by task, NaN for none.

        The label of a joint is the product of those of its chain; a 0 decides it, even where another one is null.
        """
        own, earlier = labels[self.chain[-1]], self.chain[:-1]
        if self.scope == "own space":
            in_space = np.ones(len(own), bool)
            for task in earlier:
                in_space &= labels[task] == 1
            return np.where(in_space, own, np.nan)
        product: FloatArray = np.prod([labels[task] for task in self.chain], axis=0)
        is_zero = np.any([labels[task] == 0 for task in self.chain], axis=0)
        return np.where(is_zero, 0.0, product)


def measured_things(tasks: Sequence[TaskSchema]) -> list[Measured]:
    """Each task in the order of the schema, a conditional binary one followed by its joint."""
    chains: dict[str | None, tuple[str, ...]] = {None: ()}
    things = []
    for task in tasks:
        chain = chains[task.name] = (*chains[task.space], task.name)
        has_joint = task.kind == "binary" and task.space is not None
        own = tuple(task.output_names[:-1] if has_joint else task.output_names)
        things.append(Measured(task.name, task.kind, task.space, "own space", own, chain))
        if has_joint:
            joint = task.output_names[-1]
            things.append(Measured(joint, task.kind, task.space, "all impressions", (joint,), chain))
    return things


@dataclass(frozen=True)
class Impressions:
    """Neighbouring rows before they are put in order; `first_row` is the place of the first one among all rows.

    `keys` has the raw keys by role. Arrays are [N]; labels are by task, and NaN is none; the others are by output.
    """

    first_row: int
    keys: dict[str, pa.ChunkedArray]
    weight: FloatArray
    labels: dict[str, FloatArray]
    predictions: dict[str, FloatArray]
    baseline: dict[str, FloatArray] = field(default_factory=dict)
    truth: dict[str, FloatArray] = field(default_factory=dict)
    slices: dict[str, pa.DictionaryArray] = field(default_factory=dict)

    @classmethod
    def concatenate(cls, batches: "Sequence[Impressions]") -> "Impressions":
        """Rows that follow each other."""

        def join(name: str) -> dict[str, Any]:
            columns = {key: [getattr(batch, name)[key] for batch in batches] for key in getattr(batches[0], name)}
            return {key: _concatenate(parts) for key, parts in columns.items()}

        names = ("keys", "labels", "predictions", "baseline", "truth", "slices")
        weight = np.concatenate([batch.weight for batch in batches])
        return cls(batches[0].first_row, weight=weight, **{name: join(name) for name in names})


def _concatenate(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], pa.ChunkedArray):
        return pa.chunked_array([chunk for part in parts for chunk in part.chunks], parts[0].type)
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else pa.concat_arrays(parts)


@dataclass(frozen=True)
class PartSummary:
    """What a part tells without its rows being read; parts merge in their order.

    `mixtures` is {level: {"experts": E names, "mean_weight": T lists of E means over the rows, or None where a task's
    gate does not see the expert}}; `newer_values` is {feature: {"values", "newer"}}.
    """

    num_rows: int
    mixtures: dict[str, dict[str, Any]] = field(default_factory=dict)
    newer_values: dict[str, dict[str, int]] = field(default_factory=dict)

    def merge(self, other: Self) -> Self:
        return type(self)(self.num_rows + other.num_rows, self._mix(other), self._count(other))

    def _mix(self, other: Self) -> dict[str, dict[str, Any]]:
        share = other.num_rows / (self.num_rows + other.num_rows)
        mixed = {}
        for level, mixture in self.mixtures.items():
            ours, theirs = mixture["mean_weight"], other.mixtures[level]["mean_weight"]
            mean = [
                [None if a is None else a + share * (b - a) for a, b in zip(*rows, strict=True)]
                for rows in zip(ours, theirs, strict=True)
            ]
            mixed[level] = {**mixture, "mean_weight": mean}
        return mixed

    def _count(self, other: Self) -> dict[str, dict[str, int]]:
        return {
            feature: {name: count + other.newer_values[feature][name] for name, count in counts.items()}
            for feature, counts in self.newer_values.items()
        }


@dataclass(frozen=True)
class PredictionTable:
    """All parts of a table, in their order, and what is in them."""

    parts: tuple[Path, ...]
    measured: tuple[Measured, ...]
    summary: PartSummary
    dimensions: tuple[str, ...]
    has_baseline: bool

    @property
    def num_rows(self) -> int:
        return self.summary.num_rows


def write_part(path: Path, rows: Impressions, keys: KeyColumns, **seen: dict[str, Any]) -> int:
    """Writes rows as a part, which is there whole or not at all, and returns how many there are.

    `seen` are the other fields of its summary.
    """
    order = RowOrder.of(rows.first_row + np.arange(len(rows.weight)))
    row_hash = np.empty(len(rows.weight), np.uint64)
    row_hash[order.places] = order.hashes
    key_columns = {
        role: _hash_keys(rows.keys[role], role) for role in (USER_COLUMN, REQUEST_COLUMN) if getattr(keys, role)
    }
    unit = next(iter(key_columns.values()), None)
    # A row without the key is a unit of its own.
    hashes = row_hash if unit is None else np.asarray(pc.coalesce(unit, pa.array(row_hash)))
    columns = {UNIT_COLUMN: pa.array(hashes), **key_columns, WEIGHT_COLUMN: pa.array(rows.weight)}
    columns |= {LABEL_PREFIX + task: pa.array(label, from_pandas=True) for task, label in rows.labels.items()}
    for prefix, outputs in (
        (PREDICTION_PREFIX, rows.predictions),
        (BASELINE_PREFIX, rows.baseline),
        (TRUTH_PREFIX, rows.truth),
    ):
        columns |= {prefix + output: pa.array(column) for output, column in outputs.items()}
    columns |= {SLICE_PREFIX + name: column for name, column in rows.slices.items()}
    table = pa.table(columns).take(pa.array(np.argsort(hashes, kind="stable")))
    summary = PartSummary(len(hashes), **seen)
    table = table.replace_schema_metadata({_SUMMARY_KEY: json.dumps(asdict(summary))}).combine_chunks()

    def write(temporary: Path) -> None:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)

    retry(lambda: write_atomically(path, write, table.nbytes), path)
    return len(hashes)


def _hash_keys(column: pa.ChunkedArray, role: str) -> pa.Array:
    """The hash of the text of each raw key, uint64, null for null: whatever type another table has it in."""
    codes, texts = as_codes(column, f"key {role}")
    hashes = np.append(hash64(texts, HASH_SEED), np.uint64(0))[codes]
    return pa.array(hashes, mask=codes < 0)


def map_part(path: Path) -> pa.RecordBatch:
    """The rows of a part, in memory that is mapped."""

    def read() -> pa.RecordBatch:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            return reader.get_batch(0)

    return retry(read, path)


def read_summary(path: Path) -> PartSummary:
    """The summary of a part, without its rows."""

    def read() -> bytes:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            summary: bytes = reader.schema.metadata[_SUMMARY_KEY]
            return summary

    return PartSummary(**json.loads(retry(read, path)))
