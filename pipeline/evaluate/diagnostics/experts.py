"""How the tasks mix the experts on a sample of rows: over all of it and by slice, and which experts say the same.

Shapes: B rows, S values of all dimensions of slices, T tasks, E experts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from models.batch import Batch
from models.layers import mix
from models.multitask import MultiTaskModel
from pipeline.train.inspection import describe_mixtures

MIN_SLICE_ROWS = 100
MAX_SLICES = 20


@dataclass(frozen=True)
class Slice:
    """One value of a dimension and which rows of the sample have it."""

    dimension: str
    value: str
    has_value: NDArray[np.bool_]


@torch.no_grad()
def examine_experts(
    model: MultiTaskModel, parts: Sequence[Batch], places: Sequence[slice], slices: Mapping[str, pa.DictionaryArray]
) -> dict[str, Any]:
    """Gates and experts of a model on a sample, whose rows `places[k]` are those of `parts[k]`; empty without experts.

    {"experts": {level: ...}, "alarms"}: of each level what `inspect_step` tells, "mean_weight" of all rows and the rest
    and the alarms of the first part, and "slices": [{"dimension", "value", "rows", "mean_weight"}], the `MAX_SLICES`
    values of each dimension with the most rows, of those that `MIN_SLICE_ROWS` rows or more have.
    """
    described, alarms = describe_mixtures(model.body, _inputs(model, parts[0]), [task.name for task in model.tasks])
    everywhere = Slice("", "", np.ones(sum(len(part.weights) for part in parts), bool))
    kept = [everywhere, *(one for dimension, values in slices.items() for one in _largest(dimension, values))]
    weights_of = _mean_weights(model, parts, places, [one.has_value for one in kept]) if described else {}
    levels = {}
    for level, told in described.items():
        whole, *of_slices = weights_of[level]
        levels[level] = {
            **told,
            "mean_weight": whole,
            "slices": [
                {"dimension": one.dimension, "value": one.value, "rows": int(one.has_value.sum()), "mean_weight": means}
                for one, means in zip(kept[1:], of_slices, strict=True)
            ],
        }
    return {"experts": levels, "alarms": alarms}


def _mean_weights(
    model: MultiTaskModel, parts: Sequence[Batch], places: Sequence[slice], masks: Sequence[NDArray[np.bool_]]
) -> dict[str, list[dict[str, list[float | None]]]]:
    """By level and mask the mean weight of each expert for each task, None where its gate does not see the expert."""
    mask_SN = torch.from_numpy(np.stack(masks)).double()
    share_SN = mask_SN / mask_SN.sum(dim=1, keepdim=True)
    means_of: dict[str, torch.Tensor] = {}
    for part, rows in zip(parts, places, strict=True):
        share_SB = share_SN[:, rows].to(part.dense.device)
        for level, mixture in mix(model.body, _inputs(model, part))[1].items():
            weight_BTE = mixture.weight_BTE.double().masked_fill(~mixture.seen_TE, torch.nan)
            means_STE = torch.einsum("sb,bte->ste", share_SB, weight_BTE)
            means_of[level] = means_of[level] + means_STE if level in means_of else means_STE
    return {
        level: [
            {
                task.name: [None if math.isnan(weight) else weight for weight in weights]
                for task, weights in zip(model.tasks, means_TE, strict=True)
            }
            for means_TE in means_STE.tolist()
        ]
        for level, means_STE in means_of.items()
    }


def _inputs(model: MultiTaskModel, part: Batch) -> torch.Tensor:
    x: torch.Tensor = model.front_end(part.dense, part.sparse)
    return x


def _largest(dimension: str, values: pa.DictionaryArray) -> list[Slice]:
    codes = np.asarray(values.indices.fill_null(-1))
    names = values.dictionary.to_pylist()
    rows = np.bincount(codes[codes >= 0], minlength=len(names))
    largest = np.argsort(-rows, kind="stable")[:MAX_SLICES]
    kept = np.sort(largest[rows[largest] >= MIN_SLICE_ROWS])
    return [Slice(dimension, str(names[code]), codes == code) for code in kept]
