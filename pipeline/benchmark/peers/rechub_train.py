"""The train benchmark through the MMOE or the PLE of Torch-RecHub and their trainer.

    python rechub_train.py JOB.json

Its model has the benchmark's sizes but no projection of the numeric inputs, ReLU for SiLU, batch norm, and gates with a
bias. As shipped it has the trainer's Adam with weight decay. Work begins with the first step; the arrays are in memory
by then.
"""

import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch_job import load, record_steps  # type: ignore[import-not-found]
from torch_rechub.basic.features import DenseFeature, SparseFeature  # type: ignore[import-not-found]
from torch_rechub.models.multi_task import MMOE, PLE  # type: ignore[import-not-found]
from torch_rechub.trainers import MTLTrainer  # type: ignore[import-not-found]
from torch_rechub.utils.data import DataGenerator, PredictDataset  # type: ignore[import-not-found]

AS_SHIPPED = "as shipped"
SEED = 1
OWN_OPTIONS = {"lr": 1e-3, "weight_decay": 1e-5}  # of its trainer, and of its examples


def build(job: dict[str, Any], num_numbers: int) -> Any:
    features: list[Any] = [SparseFeature(name, rows, job["embedding_dim"]) for name, rows in job["table_rows"].items()]
    features.append(DenseFeature("numbers", num_numbers))
    types = ["classification"] * len(job["tasks"])
    experts, towers = {"dims": list(job["expert_widths"])}, [{"dims": list(job["tower_widths"])} for _ in types]
    if job["body"] == "mmoe":
        return MMOE(features, types, job["num_experts"], experts, towers)
    return PLE(features, types, job["num_levels"], job["num_task_experts"], job["num_shared_experts"], experts, towers)


def main(job_path: str) -> None:
    job = json.loads(Path(job_path).read_text())
    out = Path(job["out"])
    out.mkdir(parents=True)
    is_as_shipped = job["way"] == AS_SHIPPED
    # Before there are threads, which inherit it.
    torch.set_flush_denormal(not is_as_shipped)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    (x, y), (x_validation, y_validation) = (load(job, split) for split in ("train", "validation"))
    torch.manual_seed(SEED)
    model = build(job, x["numbers"].shape[1])
    options = OWN_OPTIONS if is_as_shipped else {**OWN_OPTIONS, "fused": True}
    types = ["classification"] * len(job["tasks"])
    trainer = MTLTrainer(model, types, optimizer_params=options, n_epoch=1, model_path=str(out))
    # Its trainer validates after the epoch, as gatehouse does.
    loader, validation, _ = DataGenerator(x, y).generate_dataloader(
        x_validation, y_validation, x_validation, y_validation, batch_size=job["batch_size"]
    )
    ends = record_steps(model, job)
    with redirect_stdout(sys.stderr):
        trainer.fit(loader, validation)
    (out / "metrics.jsonl").write_text("".join(json.dumps(end) + "\n" for end in ends))
    if job["has_test"]:
        rows = DataLoader(PredictDataset(load(job, "test")[0]), job["batch_size"])
        np.save(out / "predictions.npy", np.asarray(trainer.predict(model, rows)))


if __name__ == "__main__":
    main(sys.argv[1])
