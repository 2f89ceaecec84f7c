"""The train benchmark through the MMOE or the PLE of DeepCTR-Torch and their `fit`.

    python deepctr_train.py JOB.json

Its model has the benchmark's sizes but no projection of the numeric inputs, ReLU for SiLU, and L2 on the embeddings, as
it has unless told otherwise. As shipped it has the optimizer and the metric of its multi-task example, Adagrad and the
log loss of every step. Work begins with the first step; the arrays are in memory by then.
"""

import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

# It would ask a server for its newest version, in a thread beside the measured work.
sys.modules["requests"] = ModuleType("requests")
sys.modules["requests"].__dict__.update(get=lambda _: SimpleNamespace(status_code=None), codes=SimpleNamespace(ok=200))

from deepctr_torch.inputs import DenseFeat, SparseFeat  # type: ignore[import-not-found] # noqa: E402
from deepctr_torch.models import MMOE, PLE  # type: ignore[import-not-found] # noqa: E402
from torch_job import load, record_steps  # type: ignore[import-not-found] # noqa: E402

AS_SHIPPED = "as shipped"


def build(job: dict[str, Any], num_numbers: int) -> Any:
    features = [SparseFeat(name, rows, job["embedding_dim"]) for name, rows in job["table_rows"].items()]
    common = {
        "expert_dnn_hidden_units": job["expert_widths"],
        "gate_dnn_hidden_units": (),
        "tower_dnn_hidden_units": job["tower_widths"],
        "task_types": ["binary"] * len(job["tasks"]),
        "task_names": job["tasks"],
    }
    features = [*features, DenseFeat("numbers", num_numbers)]
    if job["body"] == "mmoe":
        return MMOE(features, num_experts=job["num_experts"], **common)
    return PLE(
        features,
        shared_expert_num=job["num_shared_experts"],
        specific_expert_num=job["num_task_experts"],
        num_levels=job["num_levels"],
        **common,
    )


def main(job_path: str) -> None:
    job = json.loads(Path(job_path).read_text())
    out = Path(job["out"])
    out.mkdir(parents=True)
    is_as_shipped = job["way"] == AS_SHIPPED
    # Before there are threads, which inherit it.
    torch.set_flush_denormal(not is_as_shipped)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    arrays, labels = load(job, "train")
    model = build(job, arrays["numbers"].shape[1])
    optimizer = "adagrad" if is_as_shipped else torch.optim.Adam(model.parameters(), fused=True)
    model.compile(optimizer, loss=["binary_crossentropy"] * len(job["tasks"]), metrics=["binary_crossentropy"])
    ends = record_steps(model, job)
    with redirect_stdout(sys.stderr):
        model.fit(arrays, labels, batch_size=job["batch_size"], epochs=1, verbose=2)
    (out / "metrics.jsonl").write_text("".join(json.dumps(end) + "\n" for end in ends))
    if job["has_test"]:
        np.save(out / "predictions.npy", model.predict(load(job, "test")[0], job["batch_size"]))


if __name__ == "__main__":
    main(sys.argv[1])
