"""What a version of the registry says of itself in MLflow: tags, metrics, and the files that people open."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.config import RESOLVED_NAME
from pipeline.errors import ArtifactError
from pipeline.registry.names import version_folder
from pipeline.registry.records import Version
from pipeline.registry.registry import Registry
from pipeline.registry.root import VERSION_REMEDY, Root, explaining

TAG_PREFIX = "gatehouse."
VERSION_TAG, REGISTRY_TAG, REMOVED_TAG = (TAG_PREFIX + name for name in ("version", "registry", "removed"))
REPORT_NAME, DECISION_NAME = "report.json", "decision.json"
FILES = ("report.html", "decision.html", RESOLVED_NAME, REPORT_NAME, DECISION_NAME)
MAX_REFUSALS_LENGTH = 1000
# MLflow takes a path without a scheme, or file:, for one of its own server.
FOLDER_SCHEME = "gatehouse://"


@dataclass(frozen=True)
class Entry:
    """What is written of a version. `source` says where it lies; MLflow does not read there."""

    number: int
    run_name: str
    source: str
    created: datetime
    tags: dict[str, str]
    metrics: dict[str, float]
    files: dict[str, bytes]


def place_of(root: Root) -> str:
    """The registry's location, the same wherever on its machine it is named from."""
    return root.location if root.is_remote else FOLDER_SCHEME + str(Path(root.location).resolve())


def read_entry(registry: Registry, number: int) -> Entry:
    """The entry of a version, whose manifest and small files are checked; a checkpoint is not read for it.

    Raises:
        UsageError: there is no such version.
        ArtifactError: one of these files is damaged.
    """
    version = registry.show(number)
    files = {name: _read(registry.root, version, name) for name in FILES if name in version.files}
    place = place_of(registry.root)
    lineage = version.lineage.model_dump(mode="json", exclude={"reports"}, exclude_none=True)
    tags = {
        VERSION_TAG: str(number),
        REGISTRY_TAG: place,
        **{TAG_PREFIX + name: str(value) for name, value in lineage.items()},
        **_gate_tags(_parse(files.get(DECISION_NAME))),
    }
    source = f"{place}/{version_folder(number)}"
    metrics = dict(_metrics(_parse(files.get(REPORT_NAME))))
    return Entry(number, version.lineage.run_id, source, version.created, tags, metrics, files)


def _read(root: Root, version: Version, name: str) -> bytes:
    location, entry = root.at(f"{version_folder(version.number)}/{name}"), version.files[name]
    with explaining(location):
        data = storage.read_bytes(location)
    if len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise ArtifactError(f"{location} is damaged: it does not fit the manifest", VERSION_REMEDY)
    return data


def _parse(data: bytes | None) -> Mapping[str, Any]:
    """A file of JSON; nothing of what is no object. Versions outlive the forms of reports, so all in it is optional."""
    try:
        value = json.loads(data or b"")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _metrics(report: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The metrics that are defined, as `click/auc`; MLflow has no @ in names."""
    for task in _objects(report.get("tasks")):
        metrics = task.get("metrics")
        for name, metric in metrics.items() if isinstance(metrics, dict) else ():
            value = metric.get("value") if isinstance(metric, dict) else None
            if isinstance(value, int | float) and math.isfinite(value):
                yield f"{task.get('name')}/{name.replace('@', '_at_')}", float(value)


def _gate_tags(decision: Mapping[str, Any]) -> dict[str, str]:
    if not isinstance(decision.get("promoted"), bool):
        return {}
    rules = _objects(decision.get("rules"))
    reasons = "; ".join(str(rule.get("reason")) for rule in rules if rule.get("passed") is False)
    tags = {TAG_PREFIX + "gate": "promoted" if decision["promoted"] else "refused"}
    return tags | ({TAG_PREFIX + "refusals": reasons[:MAX_REFUSALS_LENGTH]} if reasons else {})


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
