"""Feature importance by permutation (Breiman 2001, "Random forests"): how much is lost without one feature's values.

Shapes: B rows of a part, N rows of all parts, P parts, F sparse features.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from models.batch import Batch
from pipeline.evaluate.diagnostics.quality import HAS_LOG_LOSS, MAIN_METRICS, log_loss
from pipeline.evaluate.prediction_table import FloatArray, Measured, measured_things
from pipeline.executor import Progress
from pipeline.feature_kinds import Feature, NumericFeature
from pipeline.schema import Schema

Predict = Callable[[Batch], Mapping[str, FloatArray]]


def permutation_importance(
    predict: Predict, parts: Sequence[Batch], schema: Schema, seed: int, progress: Progress | None = None
) -> dict[str, Any]:
    """What each task loses when one feature's values are dealt anew to the rows of each part of a sample.

    All of a feature moves together: the ids of a list with their weights, a number with its null indicator. Each part
    has a permutation of its own, the same for all features. So the parts repeat the measurement with other permutations
    and other rows at the cost of one prediction of the sample per feature.

    {"tasks": {name: {"rows", "metric", "value", "log_loss"}}, "features": [{"name", "kind", "tasks": {name: {"metric":
    a loss, "log_loss": a loss or None}}, "total"}]}, the feature with the largest total first. A loss is {"worsening",
    "standard_error", "relative"}: by how much the value over all parts is worse, above 0 if the feature helps; the
    standard error of that, from the parts; and the worsening over the value. What is undefined is None. `total` is the
    sum of the relative losses of all tasks' main metrics.
    """
    rulers = _rulers(parts, schema)
    orders = [_order(part, seed, place) for place, part in enumerate(parts)]
    before = _measure(rulers, predict, parts)
    features = []
    num_rows, num_features = sum(len(part.weights) for part in parts), len(schema.features)
    if progress:
        progress("features permuted", 0, num_features, 0, "rows")
    for done, feature in enumerate(schema.features, start=1):
        changed = (permute(part, feature, schema, order) for part, order in zip(parts, orders, strict=True))
        after = _measure(rulers, predict, changed)
        losses = {ruler.name: ruler.losses(*values) for ruler, *values in zip(rulers, before, after, strict=True)}
        total = sum(loss["metric"]["relative"] or 0.0 for loss in losses.values())
        features.append({"name": feature.name, "kind": feature.kind, "tasks": losses, "total": total})
        if progress:
            progress("features permuted", done, num_features, done * num_rows, "rows")
    return {
        "tasks": {ruler.name: ruler.describe(values) for ruler, values in zip(rulers, before, strict=True)},
        "features": sorted(features, key=lambda feature: -feature["total"]),
    }


def permute(part: Batch, feature: Feature, schema: Schema, order_B: Tensor) -> Batch:
    """The same rows but for one feature: row b has the values that row `order_B[b]` had."""
    if not isinstance(feature, NumericFeature):
        return replace(part, sparse=_permute_bags(part.sparse, feature.name, order_B))
    first = schema.dense_names.index(feature.name)
    own = slice(first, first + 1 + feature.null_indicator)
    dense = part.dense.clone()
    dense[:, own] = part.dense[order_B, own]
    return replace(part, dense=dense)


def _permute_bags(sparse: KeyedJaggedTensor, name: str, order_B: Tensor) -> KeyedJaggedTensor:
    place = sparse.keys().index(name)
    lengths_FB = sparse.lengths().view(len(sparse.keys()), -1).clone()
    before_B = lengths_FB[place].long()
    after_B = before_B[order_B]
    lengths_FB[place] = after_B
    # Where each value of the permuted bags lay among the values of the feature.
    shift_B = (before_B.cumsum(0) - before_B)[order_B] - (after_B.cumsum(0) - after_B)
    source = torch.arange(int(after_B.sum()), device=order_B.device) + shift_B.repeat_interleave(after_B)
    own = slice(*sparse.offset_per_key()[place : place + 2])

    def moved(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed[own] = tensor[own][source]
        return changed

    weights = sparse.weights_or_none()
    return KeyedJaggedTensor(
        keys=sparse.keys(),
        values=moved(sparse.values()),
        weights=None if weights is None else moved(weights),
        lengths=lengths_FB.flatten(),
    )


class _Ruler:
    """Measures the predictions of one task on its own space: over all parts, and over each of them."""

    def __init__(
        self, thing: Measured, labels: Mapping[str, FloatArray], weight_N: FloatArray, bounds: Sequence[int]
    ) -> None:
        label_N = thing.select_labels(labels)
        self.name = thing.name
        self.metric = MAIN_METRICS[thing.kind]
        self._thing = thing
        self._rows = np.flatnonzero(~np.isnan(label_N))
        self._label, self._weight = label_N[self._rows], weight_N[self._rows]
        self._slices = [slice(None), *(slice(*ends) for ends in pairwise(np.searchsorted(self._rows, bounds)))]

    def measure(self, outputs: Mapping[str, FloatArray]) -> FloatArray:
        """The main metric and the log loss, NaN where undefined: [2, 1 + P]."""
        chosen = [outputs[name][self._rows] for name in self._thing.outputs]
        prediction = np.stack(chosen, axis=1) if self._thing.kind == "multiclass" else chosen[0]
        functions = [self.metric.function, *([log_loss] if self._has_log_loss else [])]
        values = np.full((2, len(self._slices)), np.nan)
        if np.isfinite(prediction).all():
            for place, function in enumerate(functions):
                values[place] = [function(prediction[s], self._label[s], self._weight[s]) for s in self._slices]
        return values

    def losses(self, before: FloatArray, after: FloatArray) -> dict[str, Any]:
        worsening = np.array([[self.metric.sign], [1.0]]) * (after - before) + 0.0  # no -0.0
        metric, log = (_loss(*rows) for rows in zip(before[:, 0], worsening, strict=True))
        return {"metric": metric, "log_loss": log if self._has_log_loss else None}

    def describe(self, values: FloatArray) -> dict[str, Any]:
        value, log = map(_or_none, values[:, 0])
        return {"rows": len(self._rows), "metric": self.metric.name, "value": value, "log_loss": log}

    @property
    def _has_log_loss(self) -> bool:
        return self._thing.kind in HAS_LOG_LOSS


def _rulers(parts: Sequence[Batch], schema: Schema) -> list[_Ruler]:
    label_NT = torch.cat([part.labels for part in parts]).double().cpu().numpy()
    weight_N = torch.cat([part.weights for part in parts]).double().cpu().numpy()
    bounds = [0, *accumulate(len(part.weights) for part in parts)]
    labels = {task.name: label_NT[:, place] for place, task in enumerate(schema.tasks)}
    own = [thing for thing in measured_things(schema.tasks) if thing.scope == "own space"]
    return [_Ruler(thing, labels, weight_N, bounds) for thing in own]


def _measure(rulers: Sequence[_Ruler], predict: Predict, parts: Iterable[Batch]) -> list[FloatArray]:
    outputs = [predict(part) for part in parts]
    joined = {name: np.concatenate([part[name] for part in outputs]) for name in outputs[0]}
    return [ruler.measure(joined) for ruler in rulers]


def _order(part: Batch, seed: int, place: int) -> Tensor:
    generator = np.random.Generator(np.random.PCG64([seed, place]))
    return torch.from_numpy(generator.permutation(len(part.weights))).to(part.weights.device)


def _loss(value: float, worsening: FloatArray) -> dict[str, float | None]:
    of_parts = worsening[1:][np.isfinite(worsening[1:])]
    spread = float(of_parts.std(ddof=1) / np.sqrt(len(of_parts))) if len(of_parts) > 1 else None
    relative = float(worsening[0] / abs(value)) if value else np.nan
    return {"worsening": _or_none(worsening[0]), "standard_error": spread, "relative": _or_none(relative)}


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
