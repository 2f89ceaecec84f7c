"""`gatehouse benchmark evaluate`: what evaluation predicts in both precisions, beside other libraries."""

import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.benchmark.environment import make_environment
from pipeline.benchmark.log import LABELS, read_ahead
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
from pipeline.benchmark.score import PEERS, WAYS, check_predictions, peer
from pipeline.benchmark.train.arrays import describe_model, write_arrays
from pipeline.benchmark.train.contest import PRECISIONS, PREDICTIONS, TRAIN
from pipeline.benchmark.train.workload import LONG, SHORT, Workload, make_workload
from pipeline.errors import ArtifactError
from pipeline.evaluate.run import REPORT_JSON
from pipeline.run_config import load_run_config

EVALUATE = "evaluate"
# So that each run takes seconds; peers, which are slower, go through the rows once.
PASSES = 3
# Of a probability, many times what the rounding of products changes.
MAX_DIFFERENCE = 0.02


def compare_predicting(frame: Frame, num_rows: int, start_stage: StartStage) -> dict[str, Any]:
    """Gatehouse in both precisions, and the peers if asked for, in turns: the record of all figures.

    Raises:
        ArtifactError: the precisions do not agree, or a contestant does not predict every row.
        SetupError: a peer's environment cannot be made, or a run fails.
    """
    folder = frame.work / EVALUATE
    workload = make_workload(frame.work / TRAIN / "workload", num_rows, frame.num_threads, start_stage)
    start_stage("training of the model")
    config = train_model(folder, workload, frame.num_threads)
    contestants = [gatehouse(folder, workload, config, precision) for precision in PRECISIONS]
    if frame.with_peers:
        start_stage("environments and arrays of the peers")
        contestants += _peers(frame.work, workload)
    predictions = {}

    def check(contestant: Contestant) -> None:
        check_predictions(replace(contestant, num_rows=workload.sizes.test_rows))
        if contestant.name.startswith(GATEHOUSE):
            predictions[contestant.name] = np.load(contestant.folder / PREDICTIONS)

    read_ahead(workload.dataset(LONG), "test-*.arrow")
    usages = take_rounds(contestants, frame, start_stage(EVALUATE), check, run_predicting)
    exact, rounded = predictions.values()
    difference = float(np.abs(rounded - exact).max())
    if difference > MAX_DIFFERENCE:
        raise ArtifactError(
            f"predictions in bfloat16 differ from those in float32 by up to {difference:.3f}",
            "mend what is wrong in the dense part: only the same work can be compared",
        )
    start_stage("the whole command")
    commands = {precision: run_command(config, precision, frame.num_threads) for precision in PRECISIONS}
    settings = {
        "rows": num_rows,
        "short_rows": workload.rows[SHORT],
        "test_rows": workload.sizes.test_rows,
        "batch_size": load_run_config(config).evaluate.batch_size,
    }
    checked = {"largest_difference": difference, "commands": commands}
    return record(EVALUATE, settings, contestants, usages, frame, checked)


def train_model(folder: Path, workload: Workload, num_threads: int) -> Path:
    """Trains on the short dataset, and gives the configuration of its evaluation on the long one."""
    workspace = folder / "run"
    shutil.rmtree(workspace, ignore_errors=True)
    config = workload.configure(folder / "train.yaml", workspace, SHORT)
    run_measured((sys.executable, "-m", "jobs", "train", "--config", config), num_threads)
    return workload.configure(folder / "evaluate.yaml", workspace, LONG)


def gatehouse(folder: Path, workload: Workload, config: Path, precision: str) -> Contestant:
    """The predictions of `gatehouse evaluate`, without what it measures on them."""
    out = folder / f"{GATEHOUSE}-{precision}"
    module = "pipeline.benchmark.evaluate.run"
    command = (sys.executable, "-m", module, precision, str(PASSES), config, out / PREDICTIONS)
    num_rows = PASSES * workload.sizes.test_rows
    return Contestant(f"{GATEHOUSE}, {precision}", own_versions("torch"), command, out, num_rows, is_start_free=True)


def run_predicting(contestant: Contestant, num_threads: int) -> Usage:
    """Runs a contestant; its time ends when its predictions are written, and not with its process."""
    began = time.time()
    usage = run(contestant, num_threads)
    return replace(usage, seconds=(contestant.folder / PREDICTIONS).stat().st_mtime - began)


def run_command(config: Path, precision: str, num_threads: int) -> dict[str, Any]:
    """The seconds of the whole `gatehouse evaluate`, and the AUC of each task that it reports."""
    overrides = ("--set", f"evaluate.precision={precision}")
    usage = run_measured((sys.executable, "-m", "jobs", "evaluate", "--config", config, *overrides), num_threads)
    report = json.loads((load_run_config(config).report_dir / REPORT_JSON).read_text())
    auc = {task["name"]: task["metrics"]["auc"]["value"] for task in report["tasks"]}
    return {"seconds": usage.seconds, "auc": auc}


def describe_rows(workload: Workload, folder: Path) -> dict[str, Any]:
    """The rows of the test, whose arrays lie in `folder`, and the sizes of the model, for peers that predict."""
    sparse = [
        {"name": name, "table": name, "num_embeddings": num_rows} for name, num_rows in workload.table_rows.items()
    ]
    return {
        **describe_model(workload, "mmoe"),
        "folder": str(folder),
        "num_rows": workload.sizes.test_rows,
        "sparse": sparse,
        "tasks": [{"name": name, "kind": "binary"} for name in LABELS],
    }


def _peers(work: Path, workload: Workload) -> list[Contestant]:
    arrays = work / TRAIN / "arrays" / LONG
    write_arrays(arrays, workload.dataset(LONG))
    rows = describe_rows(workload, arrays / "test")
    pythons = {name: make_environment(work / "environments" / name, name, borrows=True) for name in PEERS}
    return [
        peer(work / EVALUATE / f"{name}-{way.replace(' ', '-')}", name, way, rows, python)
        for name, python in pythons.items()
        for way in WAYS
    ]
