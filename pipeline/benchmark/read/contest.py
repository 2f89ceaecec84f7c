"""`gatehouse benchmark read`: shards to batches of tensors, beside other ways, and beside the step that takes them."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from pipeline.benchmark.log import read_ahead
from pipeline.benchmark.process import Usage
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
from pipeline.benchmark.train.contest import PRECISIONS, TRAIN, run_training
from pipeline.benchmark.train.contest import gatehouse as train_contestant
from pipeline.benchmark.train.workload import SHORT, WHOLE, Workload, make_workload
from pipeline.errors import ArtifactError

READ = "read"
# By way: the package that does it.
PEERS = {"pyarrow.dataset": "pyarrow", "DataLoader": "torch", "Ray Data": "ray"}
# So that each takes seconds; all others go through the rows once.
PASSES = {GATEHOUSE: 5, "pyarrow.dataset": 5}
SUMS = "sums.json"


def compare_reading(frame: Frame, num_rows: int, start_stage: StartStage) -> dict[str, Any]:
    """Gatehouse's reader, and the peers if asked for, in turns, and training steps: the record of all figures.

    Raises:
        ArtifactError: a way does not give the rows that gatehouse gives.
        SetupError: a run fails.
    """
    workload = make_workload(frame.work / TRAIN / "workload", num_rows, frame.num_threads, start_stage)
    read_ahead(workload.dataset(WHOLE), "train-*.arrow")
    packages = {GATEHOUSE: "torch"} | (PEERS if frame.with_peers else {})
    contestants = [reader(frame.work / READ, workload, way, package) for way, package in packages.items()]
    found: list[dict[str, Any]] = []

    def check(contestant: Contestant) -> None:
        found.append(json.loads((contestant.folder / SUMS).read_text()))
        first, last = found[0], found[-1]
        sums, expected = (np.divide(one["sums"], one["rows"]) for one in (last, first))
        if last["rows"] != contestant.num_rows or not np.allclose(sums, expected, rtol=1e-6):
            raise ArtifactError(
                f"{contestant.name} read {last['rows']:,} rows with means {sums}, and there are "
                f"{contestant.num_rows:,} with {expected}",
                "mend the way that is wrong: only the same work can be compared",
            )

    usages = take_rounds(contestants, frame, start_stage(READ), check, run_reading)
    start_stage(TRAIN)
    training = {}
    for precision in PRECISIONS:
        contestant = train_contestant(frame.work / TRAIN, workload, "mmoe", precision, SHORT)
        contestant.clear()
        training[precision] = median(run_training(contestant, frame.num_threads).window_speeds)
        contestant.clear()
    settings = {"rows": num_rows, "batch_size": workload.sizes.batch_size}
    return record(READ, settings, contestants, usages, frame, {"training_samples_per_second": training})


def reader(folder: Path, workload: Workload, way: str, package: str) -> Contestant:
    """One way to read the whole dataset, as a process of its own."""
    own = folder / way.replace(" ", "-")
    config = workload.configure(own / "run.yaml", own / "workspace", WHOLE)
    out = own / "out"
    passes = PASSES.get(way, 1)
    command = (sys.executable, "-m", "pipeline.benchmark.read.run", way, str(passes), config, out / SUMS)
    return Contestant(way, own_versions(package), command, out, passes * workload.num_rows)


def run_reading(contestant: Contestant, num_threads: int) -> Usage:
    """Runs a contestant; its time ends with the last batch, and not with its process."""
    usage = run(contestant, num_threads)
    found = json.loads((contestant.folder / SUMS).read_text())
    return replace(usage, seconds=usage.start_seconds + found["seconds"])
