"""What training and reading are measured on: a learnable log, preprocessed once, and the sizes of a model.

All datasets have the ids of the whole log. Of its rows the short one has a few batches to train on, for the rounds, and
the long one more, for one epoch that ends with a test.
"""

import json
import shutil
import sys
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, cycle, islice
from pathlib import Path
from typing import Any

import yaml

from pipeline.benchmark.log import LABELS, TIME, LogSpec, iso_time, make_log, time_of_row
from pipeline.benchmark.process import run_measured
from pipeline.benchmark.rounds import StartStage
from pipeline.files import write_json

WHOLE, SHORT, LONG = "whole", "short", "long"
SEED = 1
FORMAT = 1


@dataclass(frozen=True)
class Sizes:
    """Of the log all but its rows; of the datasets the most rows to train on; of the models every width and count.

    Speed is that of windows of `window_steps` steps. A model may read only some of the log's categoricals, spread over
    all of them, and have more tasks than the log has labels, which then take turns. Tables have `table_factor` times
    the rows that the log's values need.
    """

    log: LogSpec
    num_categoricals: int | None = None
    num_tasks: int = len(LABELS)
    table_factor: int = 1
    short_steps: int = 50
    long_rows: int = 500_000
    validation_rows: int = 4096
    test_rows: int = 200_000
    batch_size: int = 4096
    window_steps: int = 10
    embedding_dim: int = 16
    expert_widths: tuple[int, ...] = (256, 128)
    tower_widths: tuple[int, ...] = (64,)
    num_experts: int = 8
    num_levels: int = 2
    num_shared_experts: int = 4
    num_task_experts: int = 4

    def body(self, kind: str) -> dict[str, Any]:
        """The `model.body` section of an MMoE or a PLE."""
        if kind == "mmoe":
            return {"kind": kind, "num_experts": self.num_experts, "widths": list(self.expert_widths)}
        experts = {"num_shared_experts": self.num_shared_experts, "num_task_experts": self.num_task_experts}
        return {"kind": kind, **experts, "levels": [list(self.expert_widths) for _ in range(self.num_levels)]}


SIZES = Sizes(LogSpec.wide(0, is_learnable=True))


@dataclass(frozen=True)
class Workload:
    """Datasets in `folder` with the ids of a log that has `num_rows` rows and those for validation and test."""

    folder: Path
    log: Path
    num_rows: int
    sizes: Sizes
    datasets: tuple[str, ...] = (WHOLE, SHORT, LONG)

    @property
    def spec(self) -> LogSpec:
        return replace(self.sizes.log, num_rows=self.num_rows + self.sizes.validation_rows + self.sizes.test_rows)

    @property
    def rows(self) -> dict[str, int]:
        """Rows to train on by dataset."""
        short_rows = self.sizes.short_steps * self.sizes.batch_size
        limits = {WHOLE: self.num_rows, SHORT: short_rows, LONG: self.sizes.long_rows}
        return {name: min(limits[name], self.num_rows) for name in self.datasets}

    @property
    def table_rows(self) -> dict[str, int]:
        """A row for each value that a column can have, also for those that no row has, and two for unseen and null."""
        spec, factor = self.spec, self.sizes.table_factor
        num_all, num_read = len(spec.categoricals), self.sizes.num_categoricals or len(spec.categoricals)
        places = [place * num_all // num_read for place in range(num_read)]
        return {spec.categoricals[place]: factor * (spec.cardinalities[place] + 2) for place in places}

    @property
    def labels(self) -> dict[str, str]:
        """The column of the log that each task learns."""
        turns = islice(enumerate(cycle(LABELS)), self.sizes.num_tasks)
        return {label if place < len(LABELS) else f"{label}_{place}": label for place, label in turns}

    def dataset(self, name: str) -> Path:
        return self.folder / name / "dataset"

    def arrays(self, name: str) -> Path:
        """Where the rows of a dataset are for those that read arrays."""
        return self.folder / name / "arrays"

    def configure(self, path: Path, workspace: Path, dataset: str, body: str = "mmoe") -> Path:
        """Writes the configuration of a run on a dataset to `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(self._settings(workspace, dataset, body), sort_keys=False))
        return path

    def _settings(self, workspace: Path, dataset: str, body: str) -> dict[str, Any]:
        sizes = self.sizes
        features: list[dict[str, Any]] = [{"name": one, "kind": "categorical"} for one in self.table_rows]
        features += [{"name": one, "kind": "numeric", "log1p": True} for one in self.spec.numbers]
        return {
            "workspace": str(workspace),
            "dataset": str(self.dataset(dataset)),
            "seed": SEED,
            "schema": {
                "keys": {"time": TIME},
                "features": features,
                "tasks": [{"name": name, "kind": "binary", "label": label} for name, label in self.labels.items()],
            },
            "preprocess": self._preprocessing(dataset),
            "model": {
                "front_end": {"embedding_dim": sizes.embedding_dim, "num_embeddings": self.table_rows},
                "body": sizes.body(body),
                "tower_widths": list(sizes.tower_widths),
            },
            "train": {
                "max_epochs": 1,
                "global_batch_size": sizes.batch_size,
                "log_every_steps": sizes.window_steps,
            },
            "evaluate": {"slices": [], "importance_rows": 0, "num_replicates": 10},
        }

    def _preprocessing(self, dataset: str) -> dict[str, Any]:
        counts = (self.rows[dataset], self.sizes.validation_rows, self.sizes.test_rows)
        places = accumulate(counts, initial=0)
        first, validation, test, end = (iso_time(time_of_row(place)) for place in places)
        return {
            "log": {"path": str(self.log)},
            "window": {"column": TIME, "from": first, "to": end},
            "split": {"kind": "time", "column": TIME, "validation_from": validation, "test_from": test},
            **({} if dataset == WHOLE else {"extend": str(self.dataset(WHOLE))}),
        }


def make_workload(folder: Path, num_rows: int, num_threads: int, start_stage: StartStage) -> Workload:
    """Makes a workload in `folder`, unless it is there already; a file beside it says what it holds.

    Raises:
        SetupError: preprocessing fails.
    """
    workload = Workload(folder, folder / "log", num_rows, SIZES)
    make_datasets(workload, num_threads, start_stage)
    return workload


def make_datasets(workload: Workload, num_threads: int, start_stage: StartStage) -> None:
    """Makes what a workload describes, unless it is there already; a log outside its folder is kept if it fits.

    Raises:
        SetupError: preprocessing fails.
    """
    folder = workload.folder
    settings = {name: workload._settings(folder / name, name, "mmoe") for name in workload.rows}
    description = json.loads(json.dumps({"format": FORMAT, "log": asdict(workload.spec), "settings": settings}))
    path = folder.parent / f"{folder.name}.json"
    if path.is_file() and json.loads(path.read_text()) == description:
        return
    path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    make_log(workload.log, workload.spec, num_threads, start_stage("log"))
    for name in workload.rows:
        start_stage(f"preprocess, {name} dataset")
        config = workload.configure(folder / f"{name}.yaml", folder / name, name)
        run_measured((sys.executable, "-m", "jobs", "preprocess", "--config", config), num_threads)
    write_json(path, description)
