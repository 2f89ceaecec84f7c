"""What a registry tells of its models: the champion and its report, the lease, the gate's decisions, the next slot."""

import functools
import hashlib
from collections import Counter
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline import storage
from pipeline.errors import ArtifactError, UsageError
from pipeline.gate.form import RuleName
from pipeline.monitor.metrics import Sample
from pipeline.registry.leases import read_lease as read_lease_file
from pipeline.registry.names import version_folder
from pipeline.registry.records import Version
from pipeline.registry.registry import Registry
from pipeline.registry.root import VERSION_REMEDY, explaining
from pipeline.retrain.history import last_done
from pipeline.retrain.slots import Schedule
from pipeline.run_config import RunConfig

# As pipeline.evaluate.run, which loads torch, and pipeline.gate.decide have them.
REPORT_JSON = "report.json"
DECISION_JSON = "decision.json"
CALIBRATION = "calibration"
# Of as many files what they say is kept; it is found again by their sha256.
MAX_KEPT_FILES = 256


class View(BaseModel):
    """A part of a file of a version. Fields beside these may be of another version of its form."""

    model_config = ConfigDict(strict=True, frozen=True)


class RuleView(View):
    rule: RuleName
    passed: bool


class DecisionView(View):
    promoted: bool
    rules: tuple[RuleView, ...]

    @property
    def outcome(self) -> str:
        return "promoted" if self.promoted else "refused"


class MetricView(View):
    value: float | None


class TaskView(View):
    name: str
    main_metric: str
    metrics: dict[str, MetricView]


class ReportView(View):
    tasks: tuple[TaskView, ...]


ViewT = TypeVar("ViewT", bound=View)


def open_registry(config: RunConfig) -> Registry:
    """The registry that the configuration names.

    Raises:
        ArtifactError: it is a folder that is not there: one that was lost, and not an empty registry.
    """
    assert config.registry is not None
    registry = Registry.open(config.registry.location)
    if not registry.root.is_remote and not Path(registry.root.location).is_dir():
        raise ArtifactError(
            f"the registry {registry.root.location} is not there",
            "correct registry.location; the first retraining makes it",
        )
    return registry


def read_champion(config: RunConfig) -> Iterator[Sample]:
    """Which version is in use, since when, and the slot that it was trained for; nothing before the first promotion."""
    registry = open_registry(config)
    champion = registry.champion()
    if champion is None:
        return
    yield Sample("champion_version", champion.version)
    yield Sample("champion_promoted_timestamp_seconds", champion.promoted_at.timestamp())
    slot = registry.show(champion.version).lineage.slot
    if slot is not None:
        yield Sample("champion_slot_timestamp_seconds", slot.timestamp())


def read_report(config: RunConfig) -> Iterator[Sample]:
    """How good the champion was when it was measured; an undefined metric is left out."""
    registry = open_registry(config)
    champion = registry.champion()
    version = registry.show(champion.version) if champion else None
    if version is None or REPORT_JSON not in version.files:
        return
    for task in _report_at(*_place(registry, version, REPORT_JSON)).tasks:
        main, calibration = task.metrics.get(task.main_metric), task.metrics.get(CALIBRATION)
        if main and main.value is not None:
            yield Sample("champion_main_metric", main.value, (task.name, task.main_metric))
        if calibration and calibration.value is not None:
            yield Sample("champion_calibration", calibration.value, (task.name,))


def read_lease(config: RunConfig) -> Iterator[Sample]:
    """Whether a run holds the lease, and until when if it does not renew it."""
    registry = open_registry(config)
    found = read_lease_file(registry.root)
    lease = found[0] if found else None
    yield Sample("lease_held", lease is not None and lease.is_held(registry.root.clock()))
    if lease is not None and lease.holder is not None:
        yield Sample("lease_expires_timestamp_seconds", lease.expires.timestamp())


def read_schedule(config: RunConfig) -> Iterator[Sample]:
    """The slot that is due next, or has been for long."""
    assert config.retrain is not None
    schedule = Schedule.of(config.retrain)
    yield Sample("retrain_period_seconds", schedule.period.total_seconds())
    last = last_done(config, open_registry(config))
    until = schedule.first if last is None else max(schedule.first, last + schedule.period)
    yield Sample("retrain_next_slot_timestamp_seconds", schedule.due(until, last)[0].timestamp())


def read_decisions(config: RunConfig) -> Iterator[Sample]:
    """What the gate decided on the versions that the registry has; counts of what was removed would not be right.

    Raises:
        ArtifactError: of a damaged version, at the end; what it could have changed is left out.
    """
    registry = open_registry(config)
    outcomes: list[tuple[str, Version | None]] = []
    refusals: Counter[str] = Counter()
    problem: ArtifactError | None = None
    for number in registry.numbers():
        try:
            version = registry.show(number)
            decision = _decision_of(registry, version)
        except UsageError:
            continue  # It was removed since it was listed.
        except ArtifactError as error:
            problem = error
            outcomes.append(("unreadable", None))
            continue
        outcomes.append((decision.outcome if decision else "none", version))
        if decision:
            refusals.update({rule.rule for rule in decision.rules if not rule.passed})
    for outcome, count in Counter(outcome for outcome, _ in outcomes).items():
        yield Sample("versions", count, (outcome,))
    for rule, count in refusals.items():
        yield Sample("refusals", count, (rule,))
    yield from _last_decisions([one for one in outcomes if one[0] != "none"])
    if problem:
        raise problem


def _last_decisions(outcomes: list[tuple[str, Version | None]]) -> Iterator[Sample]:
    """From what became of each version that was judged, the oldest first."""
    newest_first = [outcome for outcome, _ in reversed(outcomes)]
    since = len(list(takewhile(lambda outcome: outcome == "refused", newest_first)))
    if newest_first[since : since + 1] != ["unreadable"]:
        yield Sample("refusals_in_a_row", since)
    if outcomes and (version := outcomes[-1][1]):
        yield Sample("last_decision_promoted", newest_first[0] == "promoted")
        yield Sample("last_decision_timestamp_seconds", version.created.timestamp())


# --- the files of a version


def _decision_of(registry: Registry, version: Version) -> DecisionView | None:
    """None of a version that was published by hand."""
    return _decision_at(*_place(registry, version, DECISION_JSON)) if DECISION_JSON in version.files else None


def _place(registry: Registry, version: Version, name: str) -> tuple[str, str]:
    """Where a file of a version lies, and its sha256."""
    return registry.root.at(f"{version_folder(version.number)}/{name}"), version.files[name].sha256


@functools.lru_cache(MAX_KEPT_FILES)
def _decision_at(location: str, sha256: str) -> DecisionView:
    return _read_view(DecisionView, location, sha256)


@functools.lru_cache(1)
def _report_at(location: str, sha256: str) -> ReportView:
    return _read_view(ReportView, location, sha256)


def _read_view(kind: type[ViewT], location: str, sha256: str) -> ViewT:
    with explaining(location):
        content = storage.read_bytes(location)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ArtifactError(f"{location} is damaged: it has not the sha256 of its version's manifest", VERSION_REMEDY)
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(map(str, problem["loc"]))
        raise ArtifactError(f"{location}: field {field}: {problem['msg']}", VERSION_REMEDY) from error
