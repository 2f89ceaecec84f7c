"""Scheduled retraining: for each slot that is due a challenger is trained, compared with the champion, and judged."""

import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pipeline.assemble import check_model
from pipeline.config import dump
from pipeline.errors import ConfigError, GatehouseError
from pipeline.evaluate.run import check_evaluate
from pipeline.executor import Executor
from pipeline.gate.decide import DECISION_HTML
from pipeline.gate.form import Decision
from pipeline.gate.policy import check_gate
from pipeline.registry.config import MlflowConfig
from pipeline.registry.mirror.mirror import mirror
from pipeline.registry.mirror.server import Patience
from pipeline.registry.records import Lease
from pipeline.registry.registry import Registry
from pipeline.registry.root import Clock, utc_now
from pipeline.retrain.champion import Champion, ChampionFiles, fetch_champion, read_champion
from pipeline.retrain.config import RetrainConfig
from pipeline.retrain.history import last_done, tried_until
from pipeline.retrain.plan import RETRAIN_FOLDER, configure, digest_of, folder_of, plan_slot
from pipeline.retrain.slots import Schedule, name_of
from pipeline.retrain.stages import SlotRun, StartStage, read_decision, run_stage
from pipeline.retrain.state import STAGES, STATE_NAME, SlotState, Stage, read_state, write_state
from pipeline.run_config import RunConfig
from pipeline.score.run import check_score
from pipeline.train.run import check_training

COPIES_FOLDER = "champions"
MIRROR_PATIENCE = Patience(request_seconds=4, total_seconds=30.0)
Say = Callable[[str], None]


@dataclass(frozen=True)
class SlotResult:
    """What became of a slot."""

    slot: datetime
    run_id: str
    version: int
    decision: Decision
    folder: Path

    @property
    def is_promoted(self) -> bool:
        return self.decision.promoted

    def describe(self) -> str:
        verdict = "promoted" if self.is_promoted else "refused"
        head = f"slot {name_of(self.slot)}: version {self.version} {verdict}; {self.folder / DECISION_HTML}"
        return "\n  ".join([head, self.decision.summary, *self.decision.refusals])


def retrain(
    config: RunConfig,
    executor: Executor,
    start_stage: StartStage,
    *,
    until: datetime | None = None,
    clock: Clock = utc_now,
    say: Say = print,
) -> list[SlotResult]:
    """Does every slot that is due, in order, and returns what became of each.

    A slot that was interrupted goes on where it stopped, under the same run id. The lease of the registry is held all
    the while; without it nothing is published or promoted. Slots after `until` are left for later.

    Raises:
        LockedError: another run holds the lease, or has taken it.
        ArtifactError: the champion or the registry is damaged; nothing is changed then.
        GatehouseError: what a stage raises, with the slot; the slots after it wait.
    """
    check_retrain(config)
    section, registry_section = config.retrain, config.registry
    assert section is not None
    assert registry_section is not None
    registry = Registry.open(registry_section.location, clock)
    results = []
    with registry.held("retrain", registry_section.lease_seconds) as lease:
        now = min(until, clock()) if until else clock()
        for slot in Schedule.of(section).due(now, last_done(config, registry)):
            try:
                result = _Slot(config, section, registry, lease, executor, start_stage, say).run(slot)
            except GatehouseError as error:
                error.what = f"slot {name_of(slot)}: {error.what}"
                raise
            if result is not None:
                say(result.describe())
                results.append(result)
                _sweep(config, section)
                registry.retain(registry_section.keep, token=lease.token)
    if registry_section.mlflow:
        _mirror(registry, registry_section.mlflow, say)
    return results


def _mirror(registry: Registry, config: MlflowConfig, say: Say) -> None:
    """Shows the registry in MLflow, too. A server that does not do its work costs seconds and a line, and no more."""
    try:
        done = mirror(registry, config, MIRROR_PATIENCE)
    except GatehouseError as error:
        say(f"warning: MLflow does not show the registry as it is: {error}")
        return
    for warning in done.warnings:
        say(f"warning: {warning}")
    say(f"mlflow: {done}")


def check_retrain(config: RunConfig) -> None:
    """Checks all that can be checked before a row is read.

    Raises:
        ConfigError: what is wrong.
    """
    assert config.retrain is not None
    if config.dataset:
        raise ConfigError(
            f"dataset is {config.dataset}, and a retraining keeps the dataset of each slot in its workspace",
            "leave `dataset` out: --set dataset=null",
        )
    check_model(config.data_schema, config.model)
    check_training(config)
    check_evaluate(config)
    check_gate(config.retrain.gate, config.data_schema, config.evaluate)
    if config.retrain.score:
        check_score(config)


@dataclass(frozen=True)
class _Slot:
    config: RunConfig
    retrain: RetrainConfig
    registry: Registry
    lease: Lease
    executor: Executor
    start_stage: StartStage
    say: Say

    def run(self, slot: datetime) -> SlotResult | None:
        """Does the slot, or what is left of it; None where there is nothing to train on."""
        folder = folder_of(self.config, slot)
        state = read_state(folder)
        champion = self._champion_before(state)
        plan = plan_slot(self.retrain, slot, champion, tried_until(self.registry, slot))
        if not plan.training.first < plan.training.end:
            self.say(f"slot {name_of(slot)}: the rows up to {plan.training.first} were trained on: nothing to do")
            return None
        files = self._fetch(plan.compared.version) if plan.compared else None
        config = configure(self.config, self.retrain, plan, files)
        settings = digest_of(config)
        number = champion.version if champion else None
        if state is None or (state.settings, state.champion) != (settings, number):
            if state is not None:
                self.say(f"slot {name_of(slot)}: begins anew: the configuration or the champion is another one now")
            shutil.rmtree(folder, ignore_errors=True)
            run_id = f"retrain-{name_of(slot)}-{secrets.token_hex(3)}"
            state = SlotState(run_id=run_id, settings=settings, champion=number)
            dump(config, folder)
            write_state(folder, state)
        if champion and not champion.has_same_schema:
            self.say(f"slot {name_of(slot)}: champion {champion.version} has another schema and is not compared with")
        self.say(f"slot {name_of(slot)}, run {state.run_id}: {plan.describe()}")
        for stage in STAGES:
            if stage not in state.complete:
                self.registry.renew(self.lease)
                progress = self.start_stage(stage) if self._is_due(stage, folder) else None
                run = SlotRun(config, self.retrain, plan, state, self.registry, self.lease, self.executor, progress)
                state = run_stage(run, stage)
                write_state(folder, state)
        assert state.version is not None
        return SlotResult(slot, state.run_id, state.version, read_decision(folder), folder)

    def _is_due(self, stage: Stage, folder: Path) -> bool:
        """Whether a stage does anything: without a promotion or a scoring it only ends."""
        if stage == "promote":
            return read_decision(folder).promoted
        return stage != "score" or self.retrain.score

    def _champion_before(self, state: SlotState | None) -> Champion | None:
        """The champion that a slot's challenger meets: the one before, where an earlier attempt has been promoted."""
        champion = self.registry.champion()
        number = champion.version if champion else None
        if state is not None and number is not None and state.version == number:
            number = state.champion
        return read_champion(self.registry, number, self.config.data_schema) if number else None

    def _fetch(self, number: int) -> ChampionFiles:
        """The files of a champion; of those in a store only this copy stays."""
        copies = self.config.workspace_dir / RETRAIN_FOLDER / COPIES_FOLDER
        files = fetch_champion(self.registry, number, copies)
        for copy in copies.glob("*"):
            if copy != files.folder:
                shutil.rmtree(copy)
        return files


def _sweep(config: RunConfig, retrain: RetrainConfig) -> None:
    """Removes the workspaces of older slots. What later ones need of them is in the registry."""
    folder = config.workspace_dir / RETRAIN_FOLDER
    slots = sorted(path.parent for path in folder.glob(f"*/{STATE_NAME}"))
    for path in slots[: -retrain.keep]:
        shutil.rmtree(path)
