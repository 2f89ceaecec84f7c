"""A workspace and a registry as runs leave them, written by hand, and what a scrape of them gives."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from small_registry import small_lineage

from pipeline.config import build
from pipeline.monitor.collector import Monitor
from pipeline.monitor.metrics import METRICS, PREFIX
from pipeline.registry.registry import Registry
from pipeline.run_config import RunConfig

FIRST_SLOT = datetime(2025, 1, 9, tzinfo=UTC)
DAY = timedelta(days=1)
Values = dict[tuple[str, ...], float]


def settings(folder: Path, location: str | None = None) -> dict[str, Any]:
    return {
        "workspace": str(folder / "work"),
        "schema": {
            "keys": {"user": "user_id", "request": "request_id", "time": "timestamp"},
            "features": [{"name": "user_id", "kind": "categorical"}],
            "tasks": [{"name": "click", "kind": "binary", "label": "click"}],
        },
        "preprocess": {"log": {"path": "log"}, "split": {"kind": "order"}},
        "registry": {"location": location or str(folder / "registry")},
        "retrain": {"first_slot": FIRST_SLOT},
    }


def make_config(folder: Path, location: str | None = None, **changes: Any) -> RunConfig:
    """With a workspace that holds nothing."""
    (folder / "work").mkdir(exist_ok=True)
    return build(RunConfig, settings(folder, location) | changes, "the tests")


def values_in(text: str) -> Values:
    """By the name of a metric and the values of its labels."""
    return {
        (name, *(sample.labels[label] for label in METRICS[name].labels)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        for name in [sample.name.removeprefix(PREFIX)]
    }


def text_of(monitor: Monitor) -> str:
    metrics = CollectorRegistry()
    metrics.register(monitor)
    return generate_latest(metrics).decode()


def scrape(config: RunConfig, said: list[str] | None = None) -> Values:
    """What a new monitor gives."""
    return values_in(text_of(Monitor(config, print if said is None else said.append)))


def errors_in(values: Values) -> set[str]:
    """The sources that could not be read."""
    return {key[1] for key, value in values.items() if key[0] == "scrape_error" and value}


# --- what runs write


def record(step: int, seconds: float, kind: str = "train", **losses: float) -> dict[str, Any]:
    """A record of metrics.jsonl, at 10 samples a step."""
    return {
        "step": step,
        "num_steps": 100,
        "samples": 10 * step,
        "epoch": step // 50,
        "kind": kind,
        "losses": losses or {"click": 0.5},
        "total": 0.5,
        "seconds": seconds,
    }


def write_records(folder: Path, *records: dict[str, Any]) -> Path:
    """Appends records to the file of a workspace."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "metrics.jsonl"
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(one) + "\n" for one in records)
    return path


def decision(*refused_by: str) -> dict[str, Any]:
    """A decision, as far as it is looked at; other fields are for people."""
    rules = [{"rule": "rows", "passed": True, "reason": "all rows are measured"}]
    rules += [{"rule": rule, "passed": False, "reason": f"{rule} was not kept"} for rule in refused_by]
    return {"decision_version": 1, "promoted": not refused_by, "rules": rules}


def report(**metrics: float | None) -> dict[str, Any]:
    task = {"name": "click", "main_metric": "auc", "metrics": {name: {"value": it} for name, it in metrics.items()}}
    return {"report_version": 4, "tasks": [task]}


def publish(registry: Registry, folder: Path, slot: datetime, **files: dict[str, Any]) -> int:
    """A version for a slot, with some JSON files and one that nobody looks at."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"weights.json": {}, **{f"{name}.json": value for name, value in files.items()}}
    for name, value in content.items():
        (folder / name).write_text(json.dumps(value))
    return registry.publish({name: folder / name for name in content}, small_lineage(slot=slot, reports=[]))


def days() -> Iterator[datetime]:
    """The slots, one after the other."""
    slot = FIRST_SLOT
    while True:
        yield slot
        slot += DAY
