"""The first pass over the predictions: a sample of each measured thing's rows, from which bins and buckets come.

Which rows are sampled is decided by a hash of what they hold, so the sample is the same however rows are divided.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.measure.measured import read_outputs, select_rows
from pipeline.evaluate.measure.parts import Frame, Piece
from pipeline.evaluate.metrics.catalogue import NUM_BUCKETS
from pipeline.evaluate.metrics.ranked import MIN_BINS, Bins
from pipeline.evaluate.metrics.resample import mix
from pipeline.evaluate.metrics.rows import FloatArray, Reference, Rows
from pipeline.evaluate.prediction_table import Measured

MAX_SAMPLE_ROWS = 100_000


@dataclass
class Sample:
    """Of one measured thing: how many rows there are, and those of them, n, with the smallest hashes.

    `values`, [n, F], holds label, weight and then the outputs of each model in order.
    """

    rows: int
    hashes: NDArray[np.uint64]
    unit_hash: NDArray[np.uint64]
    values: FloatArray

    @classmethod
    def of(cls, thing: Measured, models: Sequence[str], frame: Frame) -> "Sample":
        rows, label, weight = select_rows(frame, thing)
        outputs = [read_outputs(frame, thing, model, rows) for model in models]
        values = np.column_stack([label, weight, *outputs])
        unit_hash = frame.unit_hash[frame.unit[rows]]
        hashes = mix(unit_hash)
        for column in range(2 + len(thing.outputs)):  # of the first model: the others do not change the sample
            hashes = mix(hashes ^ np.ascontiguousarray(values[:, column]).view(np.uint64))
        return cls(len(rows), hashes, unit_hash, values)._cut()

    def merge(self, other: "Sample") -> "Sample":
        return Sample(
            self.rows + other.rows,
            np.append(self.hashes, other.hashes),
            np.append(self.unit_hash, other.unit_hash),
            np.append(self.values, other.values, axis=0),
        )._cut()

    def _cut(self) -> "Sample":
        if len(self.hashes) <= MAX_SAMPLE_ROWS:
            return self
        kept = np.argpartition(self.hashes, MAX_SAMPLE_ROWS - 1)[:MAX_SAMPLE_ROWS]
        return Sample(self.rows, self.hashes[kept], self.unit_hash[kept], self.values[kept])

    def outputs(self, models: Sequence[str], model: str) -> FloatArray:
        """One model's outputs of the sampled rows, a column per class, or one: [n, C]."""
        return np.split(self.values[:, 2:], len(models), axis=1)[models.index(model)]


@dataclass(frozen=True)
class Fit:
    """What the rows of one measured thing and model are measured with: bins per class, or one, if they are ranked."""

    reference: Reference
    bins: tuple[Bins, ...]

    @classmethod
    def of(cls, models: Sequence[str], model: str, sample: Sample, kind: str, k: int, max_rows: int) -> "Fit":
        label, outputs = np.sort(sample.values[sample.values[:, 1] > 0, 0]), sample.outputs(models, model)
        num_bins = max(MIN_BINS, -(-sample.rows // max_rows))
        is_ranked = kind in ("binary", "multiclass")
        bins = [
            Bins.of(column, sample.values[:, 0] == (place if kind == "multiclass" else 1), num_bins)
            for place, column in enumerate(outputs.T if is_ranked else ())
        ]
        ordered = np.sort(outputs[np.isfinite(outputs).all(axis=1), 0])
        ends = np.arange(1, NUM_BUCKETS + 1) * len(ordered) // NUM_BUCKETS
        buckets = np.unique(ordered[ends[ends > 0] - 1])[:-1]
        shift = float(label[len(label) // 2]) if len(label) else 0.0
        return cls(Reference(shift, buckets, k), tuple(bins))


def sample_piece(things: Sequence[tuple[Measured, Sequence[str]]], piece: Piece) -> tuple[int, list[Sample]]:
    """The number of rows of a piece, and a sample of those of each measured thing."""
    frame = Frame.of_piece(piece)
    return len(frame), [Sample.of(thing, models, frame) for thing, models in things]


def sampled_rows(models: Sequence[str], model: str, sample: Sample) -> tuple[Rows, NDArray[np.uint64]]:
    """The sample as rows, and the hashes of their units."""
    order = np.argsort(sample.unit_hash, kind="stable")
    hashes, unit = np.unique(sample.unit_hash[order], return_inverse=True)
    values = sample.values[order]
    prediction = sample.outputs(models, model)[order, 0]
    return Rows(prediction, values[:, 0], values[:, 1], unit), hashes
