"""What trainings tell in a workspace: the last records of metrics.jsonl, whether they ended, the stages of a slot."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import ArtifactError
from pipeline.files import retry
from pipeline.monitor.metrics import Sample
from pipeline.retrain.plan import RETRAIN_FOLDER
from pipeline.retrain.state import STAGES, STATE_NAME, read_state
from pipeline.run_config import RunConfig
from pipeline.train.checkpoints.checkpoint import list_checkpoints, read_manifest

# As pipeline.train.telemetry has it, which loads torch.
METRICS_NAME = "metrics.jsonl"
# Some thousand records: a validation is among them.
TAIL_BYTES = 1 << 20


class Record(BaseModel):
    """A record of metrics.jsonl; one of an earlier version has no samples."""

    model_config = ConfigDict(strict=True, frozen=True)

    step: int
    num_steps: int
    samples: int | None = None
    epoch: int
    kind: Literal["train", "validation"]
    losses: dict[str, float]
    seconds: float


def read_workspace(config: RunConfig) -> Iterator[Sample]:
    """The training in the workspace itself.

    Raises:
        ArtifactError: there is no workspace, or a file in it is damaged.
    """
    folder = config.workspace_dir
    if not folder.is_dir():
        raise ArtifactError(f"the workspace {folder} is not there", "correct `workspace`; the first run makes it")
    yield from _read_run(folder, config.checkpoints_dir.name, "workspace")


def read_slot(config: RunConfig) -> Iterator[Sample]:
    """The newest slot of a retraining, and the training in its workspace.

    Raises:
        ArtifactError: a file of it is damaged.
    """
    newest = max((config.workspace_dir / RETRAIN_FOLDER).glob(f"*/{STATE_NAME}"), default=None)
    state = read_state(newest.parent) if newest else None
    if newest is None or state is None:
        return
    for stage in STAGES:
        yield Sample("retrain_stage_complete", stage in state.complete, (stage,))
    yield from _read_run(newest.parent, config.checkpoints_dir.name, "slot")


def _read_run(folder: Path, checkpoints: str, run: str) -> Iterator[Sample]:
    path = folder / METRICS_NAME
    if not path.is_file():
        return
    lines, written = retry(lambda: _read_tail(path), path)
    yield Sample("training_record_timestamp_seconds", written, (run,))
    newest: Record | None = None
    trained: list[Record] = []
    validated: list[Record] = []
    for line in reversed(lines):
        record = _parse(line, path)
        newest = newest or record
        (trained if record.kind == "train" else validated).append(record)
        if len(trained) >= 2 and validated:
            break
    if newest is not None:
        yield from _describe(newest, run)
    for record in (*trained[:1], *validated[:1]):
        for task, loss in record.losses.items():
            yield Sample("training_loss", loss, (run, record.kind, task))
    yield from _speed(trained[:2], run)
    yield Sample("training_finished", _is_finished(folder / checkpoints, newest.step if newest else 0), (run,))


def _read_tail(path: Path) -> tuple[list[bytes], float]:
    """The whole lines in the last bytes of a file, and when it was written. A line without its end is not there yet."""
    with open(path, "rb") as file:
        found = os.fstat(file.fileno())
        start = max(found.st_size - TAIL_BYTES, 0)
        file.seek(start)
        lines = file.read(TAIL_BYTES).split(b"\n")
    return lines[1 if start else 0 : -1], found.st_mtime


def _parse(line: bytes, path: Path) -> Record:
    try:
        return Record.model_validate(json.loads(line))  # pydantic's own JSON takes no NaN as a loss
    except (ValidationError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(f"a record of {path} cannot be read: {reason}", "see who else writes it") from error


def _describe(record: Record, run: str) -> Iterator[Sample]:
    yield Sample("training_step", record.step, (run,))
    yield Sample("training_planned_steps", record.num_steps, (run,))
    yield Sample("training_epoch", record.epoch, (run,))
    if record.samples is not None:
        yield Sample("training_samples", record.samples, (run,))


def _speed(trained: list[Record], run: str) -> Iterator[Sample]:
    """None where a resumption lies between the two records: each attempt counts its seconds from its own start."""
    match trained:
        case [Record(samples=int(samples)) as last, Record(samples=int(earlier)) as before]:
            seconds = last.seconds - before.seconds
            if seconds > 0 and samples > earlier:
                yield Sample("training_samples_per_second", (samples - earlier) / seconds, (run,))


def _is_finished(checkpoints: Path, step: int) -> bool:
    """Whether the newest checkpoint ends the training, and nothing was trained since."""
    present = list_checkpoints(checkpoints)
    if not present:
        return False
    manifest = read_manifest(present[-1])
    return manifest.is_finished and manifest.step >= step
