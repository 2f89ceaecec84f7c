"""One trial, in its own workspace: trains or goes on training, measures the validation split, notes what came of it."""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.errors import GatehouseError, LockedError, SetupError, StoppedError, StorageError
from pipeline.evaluate.measure.measure import measure
from pipeline.evaluate.prediction_table import measured_things
from pipeline.evaluate.scoring import PREDICTIONS_FOLDER, score_split
from pipeline.executor import InProcessExecutor
from pipeline.files import write_text
from pipeline.forms import read_form
from pipeline.lock import locked
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import read_index
from pipeline.train.checkpoints.checkpoint import list_checkpoints, read_manifest
from pipeline.train.run import train
from pipeline.tune.form import MeasuredValue, Outcome

OUTCOME_NAME = "trial.json"
# These say nothing of the trial: the same one may succeed when it is tried again.
PASSING = (LockedError, SetupError, StoppedError, StorageError)
# A process of a search that was killed may live a little longer than that search.
WAIT_SECONDS = 60.0
# Of the bootstrap: a choice needs no intervals.
NUM_REPLICATES = 0


def run_trial(config: RunConfig, parameters: dict[str, Any]) -> Outcome:
    """Does what is left of a trial, and writes its outcome, a failure too.

    Raises:
        GatehouseError: one of `PASSING`; there is no outcome.
    """
    with _held(config.workspace_dir):
        outcome = read_outcome(config.workspace_dir)
        if outcome is not None:
            return outcome
        start = time.monotonic()
        metrics: dict[str, MeasuredValue] = {}
        step, num_steps, failed = None, None, None
        try:
            best = train(config, resume=True, fallback=True)
            step, num_steps = (read_manifest(one).step for one in (best, list_checkpoints(config.checkpoints_dir)[-1]))
            metrics = _measure_validation(config, best)
        except PASSING:
            raise
        except GatehouseError as error:
            failed = str(error)
        outcome = Outcome(
            trial_version=1,
            parameters=parameters,
            metrics=metrics,
            step=step,
            num_steps=num_steps,
            seconds=round(time.monotonic() - start, 3),
            failed=failed,
        )
        write_text(config.workspace_dir / OUTCOME_NAME, outcome.model_dump_json(indent=1) + "\n")
        # Of many trials they would fill the disk; the best one is what was measured.
        for checkpoint in list_checkpoints(config.checkpoints_dir) if failed is None else ():
            if checkpoint != best:
                shutil.rmtree(checkpoint)
    return outcome


def read_outcome(folder: Path) -> Outcome | None:
    """What came of the trial in a workspace; None if it is not over.

    Raises:
        ArtifactError: the file is damaged.
    """
    path = folder / OUTCOME_NAME
    return read_form(path, Outcome, f"remove {folder}: the trial begins anew") if path.is_file() else None


def _measure_validation(config: RunConfig, checkpoint: Path) -> dict[str, MeasuredValue]:
    """By task, its main metric on the validation split."""
    section = config.evaluate.model_copy(
        update={"split": "validation", "slices": (), "truth": None, "baseline": None, "predictions": None}
    )
    own = config.model_copy(update={"evaluate": section})
    executor = InProcessExecutor()
    table, _ = score_split(own, read_index(config.dataset_dir), checkpoint, executor, None)
    things = [thing for thing in measured_things(config.data_schema.tasks) if thing.scope == "own space"]
    measured = measure(table.parts, things, (), executor, num_replicates=NUM_REPLICATES, k=section.k)
    shutil.rmtree(config.report_dir / PREDICTIONS_FOLDER)
    with suppress(OSError):
        config.report_dir.rmdir()  # where it holds a report, that stays
    cells = {task["name"]: task["metrics"][task["main_metric"]] for task in measured.tasks}
    return {name: MeasuredValue(value=cell["value"], reason=cell["reason"]) for name, cell in cells.items()}


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The lock of a trial's workspace, once another process has let it go."""
    deadline = time.monotonic() + WAIT_SECONDS
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(folder, "tune"))
                break
            except LockedError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.5)
        yield
