"""`gatehouse benchmark train`: steps of training beside other libraries, and what they have learnt after one epoch."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.benchmark.environment import locked_versions, make_environment
from pipeline.benchmark.log import LABELS
from pipeline.benchmark.process import Usage, run_measured
from pipeline.benchmark.rounds import (
    GATEHOUSE,
    Contestant,
    Frame,
    StartStage,
    own_versions,
    record,
    run,
    take_rounds,
)
from pipeline.benchmark.score import PEERS
from pipeline.benchmark.train.arrays import describe_model, write_arrays
from pipeline.benchmark.train.workload import LONG, SHORT, Workload, make_workload
from pipeline.errors import ArtifactError
from pipeline.evaluate.run import REPORT_JSON
from pipeline.train.telemetry import read_history
from pipeline.train.trainer import PLAN_NAME

TRAIN, TRAIN_PLE = "train", "train-ple"
KIND_OF_BODY = {"mmoe": TRAIN, "ple": TRAIN_PLE}
PRECISIONS = ("float32", "bfloat16")
WAYS = ("as shipped", "fused Adam")
PREDICTIONS = "predictions.npy"
Quality = dict[str, float]


@dataclass(frozen=True)
class TrainUsage(Usage):
    """`start_seconds` ends where the first step begins; `window_speeds` are samples per second in windows of steps, of
    which the first is left out."""

    window_speeds: tuple[float, ...]


def compare_training(frame: Frame, body: str, num_rows: int, start_stage: StartStage) -> dict[str, Any]:
    """Gatehouse in both precisions, and the peers if asked for, in turns: the record of all figures.

    Raises:
        ArtifactError: a peer does not predict every row of the test.
        SetupError: a peer's environment cannot be made, or a run fails.
    """
    folder = frame.work / TRAIN
    workload = make_workload(folder / "workload", num_rows, frame.num_threads, start_stage)
    pythons = make_environments(frame, start_stage)
    if pythons:
        for dataset in (SHORT, LONG):
            write_arrays(workload.arrays(dataset), workload.dataset(dataset))

    def contestants(dataset: str) -> list[Contestant]:
        return [gatehouse(folder, workload, body, precision, dataset) for precision in PRECISIONS] + [
            peer(folder, workload, body, name, way, dataset, python) for name, python in pythons.items() for way in WAYS
        ]

    floors: list[dict[str, Any]] = []

    def measure(contestant: Contestant, num_threads: int) -> TrainUsage:
        if contestant.name == contestants(SHORT)[0].name:
            floors.append(floor_of(workload, folder / "floor", body, SHORT, num_threads))
        return run_training(contestant, num_threads)

    usages = take_rounds(contestants(SHORT), frame, start_stage("rounds"), measure=measure)
    progress, long = start_stage("one epoch each"), contestants(LONG)
    quality = {}
    for place, contestant in enumerate(long, start=1):
        quality[contestant.name] = measure_quality(contestant, workload, frame.num_threads)
        progress("runs", place, len(long), place, "runs")
    settings = {
        "rows": num_rows,
        "short_rows": workload.rows[SHORT],
        "long_rows": workload.rows[LONG],
        "test_rows": workload.sizes.test_rows,
        "batch_size": workload.sizes.batch_size,
    }
    checked = {"auc": quality, "floor": lowest_floor(floors)}
    return record(KIND_OF_BODY[body], settings, contestants(SHORT), usages, frame, checked)


def make_environments(frame: Frame, start_stage: StartStage) -> dict[str, Path]:
    """The interpreters of the peers, if they are asked for.

    Raises:
        SetupError: an environment cannot be made.
    """
    if not frame.with_peers:
        return {}
    start_stage("environments of the peers")
    return {name: make_environment(frame.work / "environments" / name, name, borrows=True) for name in PEERS}


def gatehouse(folder: Path, workload: Workload, body: str, precision: str, dataset: str) -> Contestant:
    """`gatehouse train` as a user runs it, with a configuration that it writes to `folder`."""
    own = folder / f"{GATEHOUSE}-{body}-{precision}-{dataset}"
    config = workload.configure(own / "run.yaml", own / "out", dataset, body)
    command = (sys.executable, "-m", "jobs", "train", "--config", config, "--set", f"train.precision={precision}")
    versions, num_rows = own_versions("torch"), workload.rows[dataset]
    return Contestant(f"{GATEHOUSE}, {precision}", versions, command, own / "out", num_rows)


def peer(folder: Path, workload: Workload, body: str, name: str, way: str, dataset: str, python: Path) -> Contestant:
    """The script of a peer with a job that is written to `folder` for it; on the long dataset it also predicts."""
    own = folder / f"{name}-{body}-{way.replace(' ', '-')}-{dataset}"
    own.mkdir(parents=True, exist_ok=True)
    job = {
        **describe_model(workload, body),
        "arrays": str(workload.arrays(dataset)),
        "way": way,
        "has_test": dataset == LONG,
        "out": str(own / "out"),
    }
    path = own / "job.json"
    path.write_text(json.dumps(job, indent=1))
    script = Path(__file__).parents[1] / "peers" / f"{name}_train.py"
    package = PEERS[name]
    versions = {package: locked_versions(name)[package]}
    return Contestant(f"{package}, {way}", versions, (python, script, path), own / "out", workload.rows[dataset])


def run_training(contestant: Contestant, num_threads: int) -> TrainUsage:
    """Runs a contestant and reads the windows that it wrote down."""
    began = time.time()
    usage = run(contestant, num_threads)
    plan = contestant.folder / PLAN_NAME
    if plan.is_file():
        # Gatehouse's first line comes before it makes the tables; the plan is written right before the first step.
        usage = replace(usage, start_seconds=plan.stat().st_mtime - began)
    ends = [one for one in read_history(contestant.folder) if one["kind"] == "train"]
    speeds = tuple(
        (after["samples"] - before["samples"]) / (after["seconds"] - before["seconds"])
        for before, after in pairwise(ends)
    )
    return TrainUsage(**vars(usage), window_speeds=speeds)


def measure_quality(contestant: Contestant, workload: Workload, num_threads: int) -> Quality:
    """Trains on the long dataset and gives the AUC of each task on its test rows."""
    contestant.clear()
    run(contestant, num_threads)
    if contestant.name.startswith(GATEHOUSE):
        command = list(contestant.command)
        command[command.index("train")] = "evaluate"
        run_measured(command, num_threads)
        report = json.loads((contestant.folder / "report" / REPORT_JSON).read_text())
        found = {task["name"]: task["metrics"]["auc"]["value"] for task in report["tasks"]}
    else:
        labels = np.load(workload.arrays(LONG) / "test" / "labels.npy")
        predictions = np.load(contestant.folder / PREDICTIONS)
        if predictions.shape != labels.shape or not np.isfinite(predictions).all():
            raise ArtifactError(
                f"{contestant.folder} does not hold a finite prediction for each of {len(labels):,} rows: its shape is "
                f"{predictions.shape}",
                f"mend {contestant.command[1]}: only whole work can be compared",
            )
        found = {name: area_under_curve(labels[:, at], predictions[:, at]) for at, name in enumerate(LABELS)}
    contestant.clear()
    return found


def area_under_curve(label: NDArray[Any], prediction: NDArray[Any]) -> float:
    """The chance that a positive row is scored above a negative one, a tie counting one half, from sums of ranks."""
    _, place, counts = np.unique(prediction, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[place]
    num_positives = int((label > 0).sum())
    wins = rank[label > 0].sum() - num_positives * (num_positives + 1) / 2
    return float(wins / (num_positives * (len(label) - num_positives)))


def floor_of(workload: Workload, folder: Path, body: str, dataset: str, num_threads: int) -> dict[str, Any]:
    """The `Floor` of a workload's step, measured now by a process of its own that works in `folder`."""
    config, out = workload.configure(folder / "run.yaml", folder / "out", dataset, body), folder / "floor.json"
    run_measured((sys.executable, "-m", "pipeline.benchmark.train.floor", config, out), num_threads)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def lowest_floor(floors: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of several measurements of a `Floor` the one that the rest of the machine left most alone, by precision."""
    best = {precision: min(floors, key=lambda one: one["seconds"][precision]) for precision in PRECISIONS}
    lowest = min(best.values(), key=lambda one: sum(one["seconds"].values()))
    by_precision = {
        name: {precision: one[name][precision] for precision, one in best.items()}
        for name in ("seconds", "flops_per_second")
    }
    return {**lowest, **by_precision}
