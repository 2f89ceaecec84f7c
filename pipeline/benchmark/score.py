"""`gatehouse benchmark score`: candidate sets to ranked candidates, beside the plain path and other libraries."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.benchmark.environment import locked_versions, make_environment
from pipeline.benchmark.log import read_ahead
from pipeline.benchmark.process import run_measured
from pipeline.benchmark.rounds import (
    GATEHOUSE,
    Contestant,
    Frame,
    StartStage,
    own_versions,
    record,
    take_rounds,
)
from pipeline.benchmark.score_arrays import write_arrays
from pipeline.benchmark.score_check import Agreement, Columns, compare_ranking, read_columns
from pipeline.benchmark.score_workload import CANDIDATES, TOP_K, Workload, make_workload
from pipeline.errors import ArtifactError

SCORE = "score"
PLAIN = "row by row"
# By the name of their script and of their lock: the package.
PEERS = {"deepctr": "deepctr-torch", "rechub": "torch-rechub"}
WAYS = ("as shipped", "large batches", "ready batches")
PEER_ROWS = 500_000


def compare_scoring(frame: Frame, num_requests: int, num_candidates: int, start_stage: StartStage) -> dict[str, Any]:
    """Gatehouse, the plain path, and the peers if asked for, on the same candidates in turns: the record of all.

    Raises:
        ArtifactError: Gatehouse ranks otherwise than the plain path, or a peer does not predict every row.
        SetupError: a peer's environment cannot be made, or a run fails.
    """
    folder = frame.work / SCORE
    workload = make_workload(folder / "workload", num_requests, num_candidates, frame.num_threads, start_stage)
    start_stage("check of all candidates of the first requests")
    sample = _check_sample(workload, folder / "plain", frame.num_threads)
    contestants = [gatehouse(workload), plain(workload, folder / "plain")]
    if frame.with_peers:
        contestants += _peers(frame.work, workload, start_stage)
    outputs: dict[str, Columns] = {}
    agreements: list[Agreement] = []

    def check(contestant: Contestant) -> None:
        if contestant.name not in (GATEHOUSE, PLAIN):
            check_predictions(contestant)
            return
        outputs[contestant.name] = read_columns(contestant.folder)
        if contestant.name == PLAIN:
            agreements.append(compare_ranking(outputs[GATEHOUSE], outputs[PLAIN], TOP_K))
            outputs.clear()

    read_ahead(folder / "workload" / "data" / CANDIDATES)
    usages = take_rounds(contestants, frame, start_stage(SCORE), check)
    peer_rows = min(PEER_ROWS, workload.num_rows)
    settings = {"requests": num_requests, "candidates": num_candidates, "peer_rows": peer_rows}
    checked = {"all candidates": asdict(sample), f"the best {TOP_K}": asdict(agreements[0])}
    return record(SCORE, settings, contestants, usages, frame, checked)


def gatehouse(workload: Workload, *overrides: str) -> Contestant:
    """`gatehouse score` as a user runs it."""
    sets = [part for override in overrides for part in ("--set", override)]
    command = (sys.executable, "-m", "jobs", "score", "--config", str(workload.config), *sets)
    return Contestant(GATEHOUSE, own_versions("torch"), command, workload.workspace / "ranked", workload.num_rows)


def plain(workload: Workload, folder: Path, *overrides: str) -> Contestant:
    """The same model on each candidate as a row of its own."""
    out = folder / "out"
    command = (sys.executable, "-m", "pipeline.benchmark.plain_score", str(workload.config), str(out), *overrides)
    return Contestant(PLAIN, own_versions("torch"), command, out, workload.num_rows)


def peer(folder: Path, name: str, way: str, arrays: dict[str, Any], python: Path) -> Contestant:
    """The script of a peer with a job that is written to `folder` for it; its start, with reading, is for free."""
    folder.mkdir(parents=True, exist_ok=True)
    path, out = folder / "job.json", folder / "out"
    path.write_text(json.dumps({**arrays, "way": way, "out": str(out)}, indent=1))
    script = Path(__file__).parent / "peers" / f"{name}_score.py"
    package = PEERS[name]
    versions = {package: locked_versions(name)[package]}
    return Contestant(
        f"{package}, {way}", versions, (python, script, path), out, arrays["num_rows"], is_start_free=True
    )


def check_predictions(contestant: Contestant) -> None:
    """Raises an ArtifactError unless a peer predicted a finite number for each row and task."""
    predictions = np.load(contestant.folder / "predictions.npy")
    if len(predictions) != contestant.num_rows or not np.isfinite(predictions).all():
        raise ArtifactError(
            f"{contestant.folder} does not hold a finite prediction for each of {contestant.num_rows:,} rows: its "
            f"shape is {predictions.shape}",
            f"mend {contestant.command[1]}: only whole work can be compared",
        )


def _peers(work: Path, workload: Workload, start_stage: StartStage) -> list[Contestant]:
    start_stage("environments and arrays of the peers")
    pythons = {name: make_environment(work / "environments" / name, name, borrows=True) for name in PEERS}
    arrays = write_arrays(work / SCORE / "arrays", workload.config, min(PEER_ROWS, workload.num_rows))
    return [
        peer(work / SCORE / f"{name}-{way.replace(' ', '-')}", name, way, arrays, python)
        for name, python in pythons.items()
        for way in WAYS
    ]


def _check_sample(workload: Workload, folder: Path, num_threads: int) -> Agreement:
    """Compares the scores of all candidates of the first requests, before anything is measured."""
    found = []
    for contestant in (gatehouse(workload, *workload.sample), plain(workload, folder, *workload.sample)):
        contestant.clear()
        run_measured(contestant.command, num_threads)
        found.append(read_columns(contestant.folder))
        contestant.clear()
    ranked, scored = found
    return compare_ranking(ranked, scored, workload.num_candidates)
