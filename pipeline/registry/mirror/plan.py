"""What is to be done so that MLflow shows a registry: steps, from what is here and what is there. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

CHAMPION_ALIAS, PREVIOUS_ALIAS = "champion", "previous"


@dataclass(frozen=True)
class Ours:
    """The numbers of all versions of the registry, of those that are damaged, and of champion and the one before."""

    numbers: frozenset[int]
    damaged: frozenset[int] = frozenset()
    champion: int | None = None
    previous: int | None = None


@dataclass(frozen=True)
class Run:
    """A run of MLflow that describes a version; it is complete when all that belongs to it is there."""

    run_id: str
    number: int
    is_complete: bool
    artifact_uri: str


@dataclass(frozen=True)
class ModelVersion:
    """A version of MLflow's registered model; `number` is the one it has in the registry."""

    version: int
    number: int
    run_id: str
    is_marked: bool


@dataclass(frozen=True)
class Theirs:
    """What MLflow holds of the registry: the id of the experiment, whether there is a model, and the rest."""

    experiment_id: str | None = None
    has_model: bool = False
    versions: tuple[ModelVersion, ...] = ()
    runs: tuple[Run, ...] = ()
    aliases: Mapping[str, int] | None = None


@dataclass(frozen=True)
class MakeExperiment:
    pass


@dataclass(frozen=True)
class MakeModel:
    pass


@dataclass(frozen=True)
class Add:
    """Describes a version in a run, the one that an attempt has begun or a new one, and then registers it."""

    number: int
    run: Run | None


@dataclass(frozen=True)
class DropVersion:
    version: int


@dataclass(frozen=True)
class DropRun:
    run_id: str


@dataclass(frozen=True)
class Mark:
    """Says of a version whether the registry has removed it."""

    version: int
    number: int
    is_removed: bool


@dataclass(frozen=True)
class Point:
    """Points an alias to a version; None removes it."""

    alias: str
    version: int | None


Step = MakeExperiment | MakeModel | Add | DropVersion | DropRun | Mark | Point


def plan(ours: Ours, theirs: Theirs) -> list[Step]:
    """The steps that can be done now; after them there may be others, and none when MLflow shows the registry.

    A registered version is complete: it is made after its run is. Of several of one number, which two mirrors at once
    can make, the lowest stays.
    """
    if not ours.numbers and not theirs.versions:
        return []
    if theirs.experiment_id is None or not theirs.has_model:
        missing: list[tuple[bool, Step]] = [
            (theirs.experiment_id is None, MakeExperiment()),
            (not theirs.has_model, MakeModel()),
        ]
        return [step for is_missing, step in missing if is_missing]
    kept: dict[int, ModelVersion] = {}
    for one in sorted(theirs.versions, key=lambda one: one.version):
        kept.setdefault(one.number, one)
    added = ours.numbers - ours.damaged - kept.keys()
    return [
        *(DropVersion(one.version) for one in theirs.versions if one is not kept[one.number]),
        *(Add(number, _begun(theirs, number)) for number in sorted(added)),
        *(DropRun(run.run_id) for run in theirs.runs if _is_surplus(run, kept)),
        *(
            Mark(one.version, number, number not in ours.numbers)
            for number, one in kept.items()
            if one.is_marked != (number not in ours.numbers)
        ),
        *_points(ours, theirs, kept, added),
    ]


def _begun(theirs: Theirs, number: int) -> Run | None:
    """The run that all who add a version go on with."""
    runs = [run for run in theirs.runs if run.number == number]
    return min(runs, key=lambda run: (not run.is_complete, run.run_id), default=None)


def _is_surplus(run: Run, kept: Mapping[int, ModelVersion]) -> bool:
    return run.number in kept and run.run_id != kept[run.number].run_id


def _points(ours: Ours, theirs: Theirs, kept: Mapping[int, ModelVersion], added: frozenset[int]) -> Iterator[Point]:
    for alias, number in ((CHAMPION_ALIAS, ours.champion), (PREVIOUS_ALIAS, ours.previous)):
        if number in added:
            continue  # It has no version there yet.
        # An alias that points to another than the champion is worse than none.
        version = kept[number].version if number is not None and number in kept else None
        if (theirs.aliases or {}).get(alias) != version:
            yield Point(alias, version)
