"""Makes MLflow show a registry: looks, does what is missing, and looks again until nothing is.

It keeps nothing: what is done is read from MLflow each time, so it can be killed anywhere, and two can run at once.
"""

from dataclasses import dataclass, field

from pipeline.errors import ArtifactError, StorageError, UsageError
from pipeline.registry.config import MlflowConfig
from pipeline.registry.mirror.entry import place_of, read_entry
from pipeline.registry.mirror.plan import (
    CHAMPION_ALIAS,
    Add,
    DropRun,
    DropVersion,
    MakeExperiment,
    MakeModel,
    Mark,
    Ours,
    Point,
    Step,
    Theirs,
    plan,
)
from pipeline.registry.mirror.server import Patience, RefusedError, Server, connect
from pipeline.registry.registry import Registry

BY_HAND = Patience(request_seconds=30)
MAX_ROUNDS = 10


@dataclass
class Mirrored:
    """What a mirror has changed, by the numbers of versions, and what it could not: a line each."""

    added: list[int] = field(default_factory=list)
    marked: list[int] = field(default_factory=list)
    num_duplicates: int = 0
    champion: int | None = None
    has_moved: bool = False
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = [
            f"added {_list(self.added)}" if self.added else "",
            f"marked {_list(self.marked)}, which the registry has removed or has again" if self.marked else "",
            f"removed duplicates of another mirror: {self.num_duplicates}" if self.num_duplicates else "",
            f"the champion is {self.champion or 'none that is there'}" if self.has_moved else "",
        ]
        return ", ".join(filter(None, said)) or "nothing to do"


def mirror(registry: Registry, config: MlflowConfig, patience: Patience = BY_HAND) -> Mirrored:
    """Makes MLflow show the registry. A version that is damaged is left out, with a warning.

    Raises:
        SetupError: there is no client, or the server lets nobody in.
        UsageError: the model there is not of this registry, or the experiment was deleted.
        StorageError: the server does not answer, fails or refuses. The next mirror goes on.
    """
    done = Mirrored()
    with connect(config, place_of(registry.root), patience) as server:
        work = _Work(registry, server, done)
        for _ in range(MAX_ROUNDS):
            if not work.do_round():
                return done
    raise StorageError(f"{config.uri} does not come to rest: others change the model, too", "run the same again")


@dataclass
class _Work:
    registry: Registry
    server: Server
    done: Mirrored
    damaged: set[int] = field(default_factory=set)
    refused: set[Step] = field(default_factory=set)

    def do_round(self) -> bool:
        """Does all that can be done now. Returns whether there was anything."""
        # What is here is looked up last: of what is there and not here, it is certain that it was removed.
        theirs = self.server.read()
        promotions = self.registry.promotions()
        self.done.champion = promotions.champion.version if promotions.champion else None
        previous = promotions.before[-1] if promotions.before else None
        numbers = frozenset(self.registry.numbers())
        steps = plan(Ours(numbers, frozenset(self.damaged), self.done.champion, previous), theirs)
        for step in steps:
            try:
                self._do(step, theirs)
            except RefusedError:
                # Another mirror may have done it; if it is still to be done in the next round, it has not.
                if step in self.refused:
                    raise
                self.refused.add(step)
        return bool(steps)

    def _do(self, step: Step, theirs: Theirs) -> None:
        match step:
            case MakeExperiment():
                self.server.make_experiment()
            case MakeModel():
                self.server.make_model()
            case Add():
                self._add(step, theirs)
            case DropVersion(version):
                self.server.drop_version(version)
                self.done.num_duplicates += 1
            case DropRun(run_id):
                self.server.drop_run(run_id)
            case Mark(version, number, is_removed):
                self.server.mark(version, is_removed)
                self.done.marked.append(number)
            case Point(alias, version):
                self.server.point(alias, version)
                self.done.has_moved |= alias == CHAMPION_ALIAS

    def _add(self, step: Add, theirs: Theirs) -> None:
        try:
            entry = read_entry(self.registry, step.number)
        except ArtifactError as error:
            self.damaged.add(step.number)
            self.done.warnings.append(f"version {step.number} is not mirrored: {error}")
            return
        except UsageError:
            return  # It was removed just now.
        assert theirs.experiment_id is not None
        refusal = self.server.add(entry, theirs.experiment_id, step.run)
        self.done.added.append(step.number)
        if refusal:
            self.done.warnings.append(f"the files of version {step.number} are not in MLflow: {refusal}")


def _list(numbers: list[int]) -> str:
    return f"version{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
