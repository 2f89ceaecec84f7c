"""What a run tells while it trains: metrics.jsonl, TensorBoard events, progress."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from pipeline.executor import Progress

METRICS_NAME = "metrics.jsonl"


class Telemetry:
    """Averages the losses of the steps since the last record over all ranks; the first rank writes them down.

    A record: {"step", "num_steps" (at most, in the whole run), "epoch", "kind": "train" | "validation",
    "losses": {task: mean}, "total", "seconds"}.
    """

    def __init__(
        self,
        folder: Path,
        task_names: Sequence[str],
        task_weights: Sequence[float],
        every_steps: int,
        num_steps: int,
        resumed_step: int,
        progress: Progress | None,
    ) -> None:
        self.task_names = list(task_names)
        self.task_weights = list(task_weights)
        self.every_steps = every_steps
        self.num_steps = num_steps
        self.progress = progress
        self.started = time.monotonic()
        self.sums: Tensor | None = None
        self.file = self.events = None
        if dist.get_rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            _forget_after(folder / METRICS_NAME, resumed_step)
            self.file = open(folder / METRICS_NAME, "a", encoding="utf-8")  # noqa: SIM115
            self.events = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_step + 1)

    def record(self, step: int, epoch: int, sums: Tensor) -> None:
        """Adds one step's [2, T] sums; every `every_steps` steps writes their mean. A collective then."""
        self.sums = sums if self.sums is None else self.sums + sums
        if step % self.every_steps == 0:
            self.write(step, epoch, "train", self.sums)
            self.sums = None

    def write(self, step: int, epoch: int, kind: str, sums: Tensor) -> tuple[dict[str, float], float]:
        """Mean loss per task and their weighted total over all ranks. A collective."""
        sums = sums.double().clone()
        dist.all_reduce(sums)
        losses = {
            name: (loss / weight if weight else 0.0)
            for name, loss, weight in zip(self.task_names, *sums.tolist(), strict=True)
        }
        total = sum(weight * losses[name] for name, weight in zip(self.task_names, self.task_weights, strict=True))
        if self.file is not None:
            self._write_record(step, epoch, kind, losses, total)
        return losses, total

    def _write_record(self, step: int, epoch: int, kind: str, losses: dict[str, float], total: float) -> None:
        assert self.file is not None
        assert self.events is not None
        record = {
            "step": step,
            "num_steps": self.num_steps,
            "epoch": epoch,
            "kind": kind,
            "losses": losses,
            "total": total,
            "seconds": round(time.monotonic() - self.started, 3),
        }
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        for name, loss in losses.items():
            self.events.add_scalar(f"{kind}/{name}", loss, step)
        self.events.add_scalar(f"{kind}/total", total, step)
        if self.progress is not None:
            self.progress(describe(record), step, self.num_steps)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
        if self.events is not None:
            self.events.close()


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl in their order; empty when there are none."""
    path = folder / METRICS_NAME
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def describe(record: dict[str, Any]) -> str:
    """A record as a short note beside a progress bar."""
    return f"epoch {record['epoch'] + 1}, {record['kind']} loss {record['total']:.4f}"


def _forget_after(path: Path, step: int) -> None:
    """Drops the records of steps that a resumed run will do again."""
    kept = [json.dumps(record) + "\n" for record in read_history(path.parent) if record["step"] <= step]
    temporary = path.with_suffix(".partial")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)
