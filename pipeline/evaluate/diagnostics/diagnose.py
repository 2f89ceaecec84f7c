"""The diagnostics of an evaluation, `diagnostics` in the report: why the numbers are what they are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.evaluate.diagnostics.correlation import correlate_tasks
from pipeline.evaluate.diagnostics.experts import examine_experts
from pipeline.evaluate.diagnostics.importance import permutation_importance
from pipeline.evaluate.diagnostics.sample import deal
from pipeline.evaluate.diagnostics.scores import ScoreDistribution
from pipeline.evaluate.diagnostics.tables import examine_tables
from pipeline.evaluate.prediction_table import (
    LABEL_PREFIX,
    PREDICTION_PREFIX,
    FloatArray,
    Measured,
    PredictionTable,
    map_part,
)
from pipeline.executor import Progress
from pipeline.preprocess.profiles.sample import RowOrder
from pipeline.train.predictor import Predictor

SAMPLE_ROWS = 20_000
# Each part of the sample is a repetition, with rows and permutations of its own.
NUM_PARTS = 8


def diagnose(
    table: PredictionTable,
    predictor: Predictor | None = None,
    rows: pa.Table | None = None,
    *,
    slices: Mapping[str, pa.DictionaryArray] | None = None,
    has_importance: bool = True,
    weighted: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What a prediction table tells and, where a model made it, what the model tells on a sample of encoded rows.

    The evaluate stage calls it once, after scoring; of a finished table there is neither a predictor nor a sample:

        rows = sample_rows(dataset_dir, index.of_split(split), config.importance_rows or SAMPLE_ROWS, seed)
        diagnose(table, predictor, rows, slices=slicer.slice(rows), has_importance=config.importance_rows > 0,
                 weighted=config.weighted, seed=seed, progress=progress)

    `slices` hold the value of each row of the sample. {"scores", "correlations"}: see `diagnose_predictions`; and with
    a model {"rows": of the sample, "parts": that it is divided into, "importance": see `permutation_importance`, or
    None, "tables", "features": see `examine_tables`, "experts", "alarms": see `examine_experts`}.
    """
    found = diagnose_predictions(table)
    if predictor is None or rows is None:
        return found
    places = deal(rows.num_rows, max(NUM_PARTS, -(-rows.num_rows // predictor.batch_size)))
    parts = [predictor.batch_of(rows.take(pa.array(np.arange(rows.num_rows)[place]))) for place in places]
    if not weighted:
        parts = [replace(part, weights=torch.ones_like(part.weights)) for part in parts]
    importance = None
    if has_importance:
        schema = predictor.manifest.data_schema
        importance = permutation_importance(predictor.predict_batch, parts, schema, seed, progress)
    told = {
        **found,
        "rows": rows.num_rows,
        "parts": len(parts),
        "importance": importance,
        **examine_tables(predictor, parts),
        **examine_experts(predictor.model, parts, places, slices or {}),
    }
    finite: dict[str, Any] = _replace_not_finite(told)
    return finite


def diagnose_predictions(table: PredictionTable) -> dict[str, Any]:
    """What a prediction table tells by itself, wherever it comes from; one part of it is in memory at a time.

    {"scores": {name: what `ScoreDistribution.describe` gives} of all rows for what is binary, "correlations": what
    `correlate_tasks` gives of a sample of `SAMPLE_ROWS` rows}
    """
    scores: dict[str, ScoreDistribution] = {}
    sample: dict[str, FloatArray] = {}
    hashes, num_rows = np.zeros(0, np.uint64), 0
    for part in map(map_part, table.parts):
        columns = {name: _numbers(part[name]) for name in _column_names(table.measured)}
        for name, found in _distributions(table.measured, columns).items():
            scores[name] = scores[name].merge(found) if name in scores else found
        # The rows whose numbers have the smallest hashes, of all parts so far.
        order = RowOrder.of(np.arange(num_rows, num_rows + part.num_rows))
        num_rows += part.num_rows
        hashes = np.append(hashes, order.hashes[:SAMPLE_ROWS])
        kept = np.argsort(hashes)[:SAMPLE_ROWS]
        hashes = hashes[kept]
        for name, values in columns.items():
            sample[name] = np.append(sample.get(name, values[:0]), values[order.places[:SAMPLE_ROWS]])[kept]
    return {
        "scores": {name: found.describe() for name, found in scores.items()},
        "correlations": correlate_tasks(table.measured, *_labels_and_outputs(sample)),
    }


def _replace_not_finite(value: Any) -> Any:
    """The same with None for numbers that JSON does not have, as a model whose training diverged gives them."""
    match value:
        case dict():
            return {key: _replace_not_finite(one) for key, one in value.items()}
        case list():
            return [_replace_not_finite(one) for one in value]
        case float() if not math.isfinite(value):
            return None
    return value


def _column_names(measured: Sequence[Measured]) -> list[str]:
    own = [LABEL_PREFIX + thing.name for thing in measured if thing.scope == "own space"]
    return [*own, *(PREDICTION_PREFIX + name for thing in measured for name in thing.outputs)]


def _labels_and_outputs(columns: Mapping[str, FloatArray]) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    labels, outputs = (
        {name.removeprefix(prefix): values for name, values in columns.items() if name.startswith(prefix)}
        for prefix in (LABEL_PREFIX, PREDICTION_PREFIX)
    )
    return labels, outputs


def _distributions(measured: Sequence[Measured], columns: Mapping[str, FloatArray]) -> dict[str, ScoreDistribution]:
    labels, outputs = _labels_and_outputs(columns)
    distributions = {}
    for thing in measured:
        if thing.kind == "binary":
            label = thing.select_labels(labels)
            rows = ~np.isnan(label)
            distributions[thing.name] = ScoreDistribution.of(outputs[thing.outputs[0]][rows], label[rows])
    return distributions


def _numbers(column: pa.Array) -> FloatArray:
    """NaN for null."""
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)
