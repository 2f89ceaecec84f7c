"""A small log of a few days, with bad ones if wanted, and the configuration of a retraining on it."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import build
from pipeline.executor import InProcessExecutor
from pipeline.registry.registry import Registry
from pipeline.retrain.run import SlotResult, retrain
from pipeline.run_config import RunConfig
from pipeline.simulate.run import simulate

FIRST_DAY = datetime(2025, 1, 6, tzinfo=UTC)
ROWS_PER_DAY, NUM_DAYS = 1500, 6
# The first slot trains on the first two days and is measured on the third.
FIRST_SLOT = 3
Fault = Callable[[pa.Table], pa.Table]


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2025, 6, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def slot_of(day: int) -> datetime:
    """The slot that sees the days before this one, counted from 0."""
    return FIRST_DAY + timedelta(days=day)


def make_log(folder: Path, faults: Mapping[int, Fault] | None = None) -> Path:
    """Writes the days; `faults` change some of them."""
    simulate(folder, NUM_DAYS * ROWS_PER_DAY, seed=5, num_days=NUM_DAYS, num_users=60, num_items=110, drift=0.02)
    for day, spoil in (faults or {}).items():
        path = folder / "log" / f"day-{day + 1:02d}.parquet"
        pq.write_table(spoil(pq.read_table(path)), path)
    return folder


def turn_labels(rows: pa.Table) -> pa.Table:
    """A day whose clicks are those that were none; `like` and `purchase` are gone, which are defined on clicks."""
    clicks = 1 - np.asarray(rows["click"])
    nothing = pa.array(np.zeros(len(clicks), np.int8))
    rows = rows.set_column(rows.column_names.index("click"), "click", pa.array(clicks))
    return rows.set_column(rows.column_names.index("like"), "like", nothing)


def settings(log: Path, folder: Path, **retrain_section: Any) -> dict[str, Any]:
    """A policy that lets noise pass, and no more."""
    loose = {"default": {"max_loss": "40%", "calibration": {"min": 0.3, "max": 3}}, "slices": {"dimensions": []}}
    features = ["user_id", "item_id", "device", "hour"]
    return {
        "workspace": str(folder / "work"),
        "inputs": str(log),
        "schema": {
            "keys": {"user": "user_id", "item": "item_id", "request": "request_id", "time": "timestamp"},
            "features": [{"name": name, "kind": "categorical"} for name in features],
            "tasks": [{"name": "click", "kind": "binary", "label": "click"}],
        },
        "preprocess": {"log": {"path": "log"}, "split": {"kind": "order"}},
        "model": {
            "front_end": {"embedding_dim": 4},
            "body": {"kind": "shared_bottom", "widths": [8]},
            "tower_widths": [4],
        },
        "train": {"device": "cpu", "max_epochs": 4, "global_batch_size": 128, "inspect_every_steps": None},
        "evaluate": {"slices": [], "num_replicates": 100, "importance_rows": 0},
        "registry": {"location": str(folder / "registry"), "lease_seconds": 60},
        "retrain": {
            "first_slot": slot_of(FIRST_SLOT),
            "train_slots": 2,
            "gate": loose | {"drift": {"max_psi": 10, "max_label_rate_change": 0.5}},
            **retrain_section,
        },
    }


def make_config(log: Path, folder: Path, **changes: Any) -> RunConfig:
    return build(RunConfig, settings(log, folder) | changes, "the tests")


def run_until(
    config: RunConfig, day: int, clock: Clock | None = None, said: list[str] | None = None
) -> list[SlotResult]:
    """Does the slots up to one, in this process."""
    say = said.append if said is not None else lambda line: None
    now = clock or Clock()
    return retrain(config, InProcessExecutor(), lambda stage: None, until=slot_of(day), clock=now, say=say)


def registry_of(config: RunConfig, clock: Clock | None = None) -> Registry:
    assert config.registry is not None
    return Registry.open(config.registry.location, clock or Clock())
