"""What the scripts of the torch libraries share: their rows, when steps begin and end, which batch size is fastest.

Such a script is run by its path, so that this file is beside it in the search path of modules.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch.optim.optimizer import register_optimizer_step_post_hook

BATCH_SIZES = (256, 1024, 4096, 16384)
Arrays = dict[str, np.ndarray]


def load(job: dict[str, Any], split: str) -> tuple[Arrays, np.ndarray]:
    """The rows of a split, an array per feature, and their labels."""
    folder = Path(job["arrays"]) / split
    arrays = {name: np.load(folder / f"{name}.npy") for name in [*job["table_rows"], "numbers"]}
    return arrays, np.load(folder / "labels.npy")


def record_steps(model: Any, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Says when the first step begins, and fills the list with samples and seconds at the end of every window."""
    ends: list[dict[str, Any]] = []
    steps: list[float] = []

    def begin(*_: Any) -> None:
        if not steps:
            steps.append(time.perf_counter())
            print("train ...", file=sys.__stdout__, flush=True)

    def end(*_: Any) -> None:
        steps.append(time.perf_counter())
        step = len(steps) - 1
        if step % job["window_steps"] == 0:
            ends.append({"kind": "train", "samples": step * job["batch_size"], "seconds": steps[-1] - steps[0]})

    model.register_forward_pre_hook(begin)
    register_optimizer_step_post_hook(end)
    return ends


def fastest(predict: Callable[[Any, Any, int], Any], model: Any, rows: Any) -> int:
    """The batch size that takes the least time for some rows."""

    def seconds(batch_size: int) -> float:
        started = time.perf_counter()
        predict(model, rows, batch_size)
        return time.perf_counter() - started

    return min(BATCH_SIZES, key=seconds)
