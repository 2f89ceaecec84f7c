"""A registry with small versions, on a disk or in a store, and a clock that goes when it is told to."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipeline.registry.records import Lineage
from pipeline.registry.registry import Registry

FILES = ("checkpoint/.metadata", "config.resolved.yaml", "report.json")
SECONDS = 600.0


class Clock:
    """A clock that stands still until it is told to advance."""

    def __init__(self) -> None:
        self.now = datetime(2025, 3, 30, 0, 30, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def small_lineage(parent: int | None = None, **changes: Any) -> Lineage:
    fields = {
        "parent": parent,
        "run_id": "2025-03-30",
        "slot": "2025-03-30T02:30:00+02:00",
        "data_manifest": "a" * 64,
        "vocabulary_version": "b" * 64,
        "schema_fingerprint": "c" * 64,
        "checkpoint": "d" * 64,
        "config": "e" * 64,
        "reports": ["report.json"],
    }
    return Lineage.model_validate(fields | changes)


def write_files(folder: Path, text: str) -> dict[str, Path]:
    """Files to publish, whose content holds a text."""
    for name in FILES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"train: {{epochs: {text}, lanes: 4}}\n" if name.endswith(".yaml") else f"{name} of {text}")
    return {name: folder / name for name in FILES}


def publish(registry: Registry, folder: Path, text: str = "1", parent: int | None = None) -> int:
    return registry.publish(write_files(folder, text), small_lineage(parent))


def promote(registry: Registry, *numbers: int) -> None:
    """Makes each of some versions the champion, one after the other, under one lease."""
    lease = registry.acquire("the tests", SECONDS)
    for number in numbers:
        registry.promote(number, token=lease.token, reason=f"version {number} is better")
    registry.release(lease)
