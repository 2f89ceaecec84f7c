"""The score benchmark's rows through the MMOE of Torch-RecHub, with random parameters: only its speed is of interest.

    python rechub_score.py JOB.json

It has the sizes of the demo's model but no projection of the numeric inputs, ReLU for SiLU, batch norm, gates with a
bias, and no head. Work begins when the arrays are in memory and the model is built.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch_job import fastest  # type: ignore[import-not-found]
from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature  # type: ignore[import-not-found]
from torch_rechub.models.multi_task import MMOE  # type: ignore[import-not-found]
from torch_rechub.trainers import MTLTrainer  # type: ignore[import-not-found]
from torch_rechub.utils.data import PredictDataset  # type: ignore[import-not-found]

AS_SHIPPED, READY_BATCHES = "as shipped", "ready batches"
OWN_BATCH_SIZE = 1024  # of its examples of multi-task ranking
TRIAL_ROWS = 32_768
Arrays = dict[str, Any]
TYPES = {"binary": "classification", "regression": "regression"}


def build(job: dict[str, Any], arrays: Arrays) -> Any:
    features: list[Any] = []
    owners: dict[str, str] = {}
    for one in sorted(job["sparse"], key=lambda one: one["name"] != one["table"]):
        name, num_embeddings, shared = one["name"], one["num_embeddings"], owners.get(one["table"])
        owners.setdefault(one["table"], name)
        if arrays[name].ndim == 1:
            features.append(SparseFeature(name, num_embeddings, job["embedding_dim"], shared))
        else:
            features.append(SequenceFeature(name, num_embeddings, job["embedding_dim"], "mean", shared, padding_idx=0))
    features.append(DenseFeature("numbers", arrays["numbers"].shape[1]))
    types = [TYPES[task["kind"]] for task in job["tasks"]]
    towers = [{"dims": list(job["tower_widths"])} for _ in types]
    model = MMOE(features, types, job["num_experts"], {"dims": list(job["expert_widths"])}, towers)
    return MTLTrainer(model, types)


def predict_rows(trainer: Any, arrays: Arrays, batch_size: int) -> Any:
    return trainer.predict(trainer.model, DataLoader(PredictDataset(arrays), batch_size))


def predict_batches(trainer: Any, arrays: Arrays, batch_size: int) -> Any:
    """Its predict with ready batches for its loader's, which puts every batch together from single rows."""
    num_rows = len(arrays["numbers"])
    slices = (slice(first, first + batch_size) for first in range(0, num_rows, batch_size))
    return trainer.predict(trainer.model, ({name: array[own] for name, array in arrays.items()} for own in slices))


def main(job_path: str) -> None:
    job = json.loads(Path(job_path).read_text())
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    names = [*(one["name"] for one in job["sparse"]), "numbers"]
    arrays: Arrays = {name: np.load(f"{job['folder']}/{name}.npy") for name in names}
    trainer = build(job, arrays)
    predict = predict_rows
    if job["way"] == READY_BATCHES:
        predict, arrays = predict_batches, {name: torch.from_numpy(array) for name, array in arrays.items()}
    batch_size = OWN_BATCH_SIZE
    if job["way"] != AS_SHIPPED:
        batch_size = fastest(predict, trainer, {name: array[:TRIAL_ROWS] for name, array in arrays.items()})
    print("predict ...", flush=True)
    predictions = predict(trainer, arrays, batch_size)
    os.makedirs(job["out"])
    np.save(f"{job['out']}/predictions.npy", np.asarray(predictions))


if __name__ == "__main__":
    main(sys.argv[1])
