"""The rows of one measured thing among those of a range: their labels, weights and outputs."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.evaluate.measure.parts import Frame
from pipeline.evaluate.metrics.rows import FloatArray, IntArray
from pipeline.evaluate.prediction_table import (
    BASELINE_PREFIX,
    LABEL_PREFIX,
    PREDICTION_PREFIX,
    TRUTH_PREFIX,
    WEIGHT_COLUMN,
    Measured,
)

# Whose outputs are measured, by the prefix of their columns: the model's, those of another one, the true values.
MODEL, BASELINE, TRUTH = MODELS = (PREDICTION_PREFIX, BASELINE_PREFIX, TRUTH_PREFIX)


def output_columns(thing: Measured, model: str) -> list[str]:
    """The columns with its outputs; of a joint's truth, those whose product it is."""
    is_product = thing.scope == "all impressions" and model == TRUTH
    names: Sequence[str] = thing.chain if is_product else thing.outputs
    return [model + name for name in names]


def read_outputs(frame: Frame, thing: Measured, model: str, rows: IntArray) -> FloatArray:
    """A value per row, [N], or one per row and class, [N, C]."""
    outputs = [frame.numbers(column)[rows] for column in output_columns(thing, model)]
    if thing.kind == "multiclass":
        return np.stack(outputs, axis=1)
    product: FloatArray = np.prod(outputs, axis=0)
    return product


def select_rows(frame: Frame, thing: Measured) -> tuple[IntArray, FloatArray, FloatArray]:
    """The places of its rows, their labels and their weights.

    Raises:
        DataError: a label or a weight is not what it must be.
    """
    label = thing.select_labels({task: frame.numbers(LABEL_PREFIX + task) for task in thing.chain})
    rows = np.flatnonzero(~np.isnan(label))
    label, weight = label[rows], frame.numbers(WEIGHT_COLUMN)[rows]
    if thing.kind in ("binary", "multiclass"):
        num_classes = max(len(thing.outputs), 2)
        is_wrong = ~np.isin(label, np.arange(num_classes))
        _refuse(thing, "label", label[is_wrong], f"one of 0 to {num_classes - 1}")
    else:
        _refuse(thing, "label", label[~np.isfinite(label)], "finite")
    _refuse(thing, "weight", weight[~(np.isfinite(weight) & (weight >= 0))], "finite and at least 0")
    return rows, label, weight


def _refuse(thing: Measured, what: str, wrong: NDArray[np.float64], rule: str) -> None:
    if len(wrong):
        raise DataError(
            f"{thing.name!r} has a row with a {what} of {wrong[0]:g}, which is not {rule}",
            "correct the table that the predictions and labels come from",
        )
