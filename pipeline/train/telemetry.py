"""What a run tells while it trains: metrics.jsonl, inspections.jsonl, TensorBoard events, progress."""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch.distributed as dist
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from pipeline.executor import Progress

METRICS_NAME = "metrics.jsonl"
INSPECTIONS_NAME = "inspections.jsonl"


class Telemetry:
    """Averages the losses of the steps since the last record; the first rank writes them down.

    A record of metrics.jsonl: {"step", "num_steps" (at most, in the whole run), "samples" (trained by then), "epoch",
    "kind": "train" or "validation", "losses": {task: mean}, "total", "seconds"}. One of inspections.jsonl: {"step",
    "epoch"} and what `inspect_step` gives.
    """

    def __init__(
        self,
        folder: Path,
        task_names: Sequence[str],
        task_weights: Sequence[float],
        every_steps: int,
        num_steps: int,
        samples_after: Callable[[int], int],
        resumed_step: int,
        progress: Progress | None,
    ) -> None:
        self.task_names = list(task_names)
        self.task_weights = list(task_weights)
        self.every_steps = every_steps
        self.num_steps = num_steps
        self.samples_after = samples_after
        self.progress = progress
        self.started = time.monotonic()
        self.sums: Tensor | None = None
        self.files: dict[str, TextIO] = {}
        self.events: SummaryWriter | None = None
        if dist.get_rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            for name in (METRICS_NAME, INSPECTIONS_NAME):
                forget_after(folder / name, resumed_step)
                self.files[name] = open(folder / name, "a", encoding="utf-8")  # noqa: SIM115
            self.events = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_step + 1)
        if progress is not None:
            progress("steps", resumed_step, num_steps, samples_after(resumed_step), "samples")

    def record(self, step: int, epoch: int, sums: Tensor) -> None:
        """Adds one step's [2, T] sums over all ranks; every `every_steps` steps writes their mean."""
        self.sums = sums if self.sums is None else self.sums + sums
        if step % self.every_steps == 0:
            self.write(step, epoch, "train", self.sums)
            self.sums = None

    def write(self, step: int, epoch: int, kind: str, sums: Tensor) -> tuple[dict[str, float], float]:
        """Mean loss per task and their weighted total, from [2, T] sums over all ranks."""
        losses = {
            name: (loss / weight if weight else 0.0)
            for name, loss, weight in zip(self.task_names, *sums.double().tolist(), strict=True)
        }
        total = sum(weight * losses[name] for name, weight in zip(self.task_names, self.task_weights, strict=True))
        samples = self.samples_after(step)
        record = {
            "step": step,
            "num_steps": self.num_steps,
            "samples": samples,
            "epoch": epoch,
            "kind": kind,
            "losses": losses,
            "total": total,
            "seconds": round(time.monotonic() - self.started, 3),
        }
        self._append(
            METRICS_NAME, record, {f"{kind}/{name}": loss for name, loss in (*losses.items(), ("total", total))}
        )
        if self.progress is not None:
            self.progress(describe(record), step, self.num_steps, samples, "samples")
        return losses, total

    def write_inspection(self, step: int, epoch: int, seen: dict[str, Any]) -> None:
        """Writes down what `inspect_step` saw after a step."""
        names, gradients = self.task_names, seen["gradients"]
        scalars = {f"gradient_norm/{task}": norm for task, norm in gradients["norm"].items()}
        scalars |= {f"loss_weight/{task}": weight for task, weight in seen["weights"]["loss"].items()}
        scalars |= {f"shared_weight/{task}": weight for task, weight in seen["weights"]["shared"].items()}
        for place, task in enumerate(names):
            for other in range(place):
                scalars[f"gradient_cosine/{names[other]}_{task}"] = gradients["cosine"][place][other]
        for level, mixture in seen["mixtures"].items():
            where = level.replace(" ", "_")
            scalars |= {f"gate_entropy_{where}/{task}": entropy for task, entropy in mixture["entropy"].items()}
            for task, weights in mixture["mean_weight"].items():
                for expert, weight in zip(mixture["experts"], weights, strict=True):
                    if weight is not None:
                        scalars[f"gate_{where}_{task}/{expert.replace(' ', '_')}"] = weight
        self._append(INSPECTIONS_NAME, {"step": step, "epoch": epoch, **seen}, scalars)

    def _append(self, file_name: str, record: dict[str, Any], scalars: dict[str, float]) -> None:
        if self.events is None:
            return
        self.files[file_name].write(json.dumps(record) + "\n")
        self.files[file_name].flush()
        for name, value in scalars.items():
            self.events.add_scalar(name, value, record["step"])

    def close(self) -> None:
        for file in self.files.values():
            file.close()
        if self.events is not None:
            self.events.close()


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl in their order; empty when there are none."""
    return _read_records(folder / METRICS_NAME)


def read_inspections(folder: Path) -> list[dict[str, Any]]:
    """What `inspect_step` saw at each inspected step, with its "step" and "epoch", in their order."""
    return _read_records(folder / INSPECTIONS_NAME)


def _read_records(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def describe(record: dict[str, Any]) -> str:
    """A record as what a progress bar counts, with a short note."""
    return f"steps, epoch {record['epoch'] + 1}, {record['kind']} loss {record['total']:.4f}"


def forget_after(path: Path, step: int) -> None:
    """Drops the records of steps that a resumed run will do again."""
    kept = [json.dumps(record) + "\n" for record in _read_records(path) if record["step"] <= step]
    temporary = path.with_suffix(".partial")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)
