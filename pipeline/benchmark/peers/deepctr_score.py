"""The score benchmark's rows through the MMOE of DeepCTR-Torch, with random parameters: only its speed is of interest.

    python deepctr_score.py JOB.json

It has the sizes of the demo's model but no projection of the numeric inputs, ReLU for SiLU, and no head. Work begins
when the arrays are in memory and the model is built.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

# It would ask a server for its newest version, in a thread beside the measured work.
sys.modules["requests"] = ModuleType("requests")
sys.modules["requests"].__dict__.update(get=lambda _: SimpleNamespace(status_code=None), codes=SimpleNamespace(ok=200))

from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat  # type: ignore[import-not-found] # noqa: E402
from deepctr_torch.models import MMOE  # type: ignore[import-not-found] # noqa: E402
from torch_job import fastest  # type: ignore[import-not-found] # noqa: E402

AS_SHIPPED, LARGE_BATCHES = "as shipped", "large batches"
OWN_BATCH_SIZE = 256  # of its predict
TRIAL_ROWS = 32_768
Arrays = dict[str, np.ndarray]


def build(job: dict[str, Any], arrays: Arrays) -> Any:
    features = []
    for one in job["sparse"]:
        ids = arrays[one["name"]]
        sparse = SparseFeat(one["name"], one["num_embeddings"], job["embedding_dim"], embedding_name=one["table"])
        features.append(sparse if ids.ndim == 1 else VarLenSparseFeat(sparse, ids.shape[1], "mean"))
    features.append(DenseFeat("numbers", arrays["numbers"].shape[1]))
    return MMOE(
        features,
        num_experts=job["num_experts"],
        expert_dnn_hidden_units=job["expert_widths"],
        gate_dnn_hidden_units=(),
        tower_dnn_hidden_units=job["tower_widths"],
        task_types=[task["kind"] for task in job["tasks"]],
        task_names=[task["name"] for task in job["tasks"]],
    )


def predict_arrays(model: Any, arrays: Arrays, batch_size: int) -> np.ndarray:
    predictions: np.ndarray = model.predict(arrays, batch_size)
    return predictions


def predict_matrix(model: Any, x: torch.Tensor, batch_size: int) -> np.ndarray:
    """Its forward alone, on slices of one matrix: its predict takes every batch apart into rows and together again."""
    with torch.no_grad():
        return torch.cat([model(x[first : first + batch_size]) for first in range(0, len(x), batch_size)]).numpy()


def main(job_path: str) -> None:
    job = json.loads(Path(job_path).read_text())
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    names = [*(one["name"] for one in job["sparse"]), "numbers"]
    arrays = {name: np.load(f"{job['folder']}/{name}.npy") for name in names}
    model = build(job, arrays).eval()
    predict: Callable[[Any, Any, int], np.ndarray] = predict_arrays
    rows: Any = arrays
    if job["way"] == AS_SHIPPED:
        batch_size = OWN_BATCH_SIZE
    elif job["way"] == LARGE_BATCHES:
        # Of one type, or numpy joins them as float64.
        rows = {name: array.astype(np.float32) for name, array in arrays.items()}
        batch_size = fastest(predict, model, {name: array[:TRIAL_ROWS] for name, array in rows.items()})
    else:
        columns = [arrays[name].reshape(len(arrays[name]), -1) for name in model.feature_index]
        predict, rows = predict_matrix, torch.from_numpy(np.concatenate(columns, axis=1).astype(np.float32))
        batch_size = fastest(predict, model, rows[:TRIAL_ROWS])
    print("predict ...", flush=True)
    predictions = predict(model, rows, batch_size)
    os.makedirs(job["out"])
    np.save(f"{job['out']}/predictions.npy", predictions)


if __name__ == "__main__":
    main(sys.argv[1])
