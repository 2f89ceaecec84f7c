"""The stages of a slot, each of which can be run again after it was killed and ends as if it had not been."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import RESOLVED_NAME
from pipeline.doctor import code_revision
from pipeline.evaluate.run import REPORT_HTML, REPORT_JSON, evaluate
from pipeline.executor import Executor, Progress
from pipeline.export.run import export
from pipeline.files import sha256_of, write_json
from pipeline.forms import read_form
from pipeline.gate.decide import DECISION_HTML, DECISION_JSON, decide, write_decision
from pipeline.gate.evidence import Expected, read_findings, read_report
from pipeline.gate.form import Decision
from pipeline.preprocess.profiles.statistics import read_statistics
from pipeline.preprocess.restart import STAGING_FOLDER
from pipeline.preprocess.run import preprocess
from pipeline.registry.records import Lease, Lineage
from pipeline.registry.registry import Registry
from pipeline.retrain.champion import CHECKPOINT_FOLDER, DATASET_FOLDER, EXPORT_FOLDER, SLOT_NAME, SlotRecord
from pipeline.retrain.config import RetrainConfig
from pipeline.retrain.history import find_version
from pipeline.retrain.plan import SlotPlan
from pipeline.retrain.state import SlotState, Stage
from pipeline.run_config import RunConfig
from pipeline.score.run import score
from pipeline.shards.manifest import INDEX_NAME, STATISTICS_NAME, read_index
from pipeline.shards.vocabularies import VOCABULARIES_FOLDER
from pipeline.train.checkpoints.checkpoint import best_checkpoint, read_manifest
from pipeline.train.run import train

COPY_FOLDER = "scored_with"
StartStage = Callable[[str], Progress | None]


@dataclass(frozen=True)
class SlotRun:
    """One slot at work: `config` is the slot's own, `state` what was complete when the stage began."""

    config: RunConfig
    retrain: RetrainConfig
    plan: SlotPlan
    state: SlotState
    registry: Registry
    lease: Lease
    executor: Executor
    progress: Progress | None

    @property
    def folder(self) -> Path:
        return self.config.workspace_dir


def run_stage(run: SlotRun, stage: Stage) -> SlotState:
    """Runs a stage to its end, and returns the state after it."""
    version = None
    match stage:
        case "preprocess":
            _preprocess(run)
        case "train":
            train(run.config, resume=True, progress=run.progress)
        case "export":
            export(run.config, overwrite=True, progress=run.progress)
        case "evaluate":
            evaluate(run.config, run.executor, progress=run.progress)
        case "gate":
            write_decision(_decide(run), run.folder)
        case "publish":
            version = find_version(run.registry, run.state.run_id, run.plan.slot) or _publish(run)
        case "promote":
            _promote(run)
        case "score":
            _score(run)
    return run.state.with_stage(stage, version)


def read_decision(folder: Path) -> Decision:
    """What the gate decided in a slot."""
    return read_form(folder / DECISION_JSON, Decision, f"remove {folder}: the slot begins anew")


def _preprocess(run: SlotRun) -> None:
    folder = run.config.dataset_dir
    if not (folder / INDEX_NAME).exists() or (folder / STAGING_FOLDER).exists():
        preprocess(run.config, run.executor, run.progress)


def _decide(run: SlotRun) -> Decision:
    config = run.config
    expected = Expected(
        challenger=str(best_checkpoint(config.checkpoints_dir)),
        champion=config.evaluate.baseline,
        split=config.evaluate.split,
        rows=read_index(config.dataset_dir).num_rows(config.evaluate.split),
        schema=config.data_schema,
    )
    report = read_report(config.report_dir / REPORT_JSON)
    return decide(report, expected, run.retrain.gate, read_findings(read_statistics(config.dataset_dir)))


# --- publishing


def _publish(run: SlotRun) -> int:
    config, plan = run.config, run.plan
    index = read_index(config.dataset_dir)
    record = SlotRecord(
        run_id=run.state.run_id,
        slot=plan.slot,
        trained_from=plan.training.first,
        trained_until=plan.training.end,
    )
    write_json(run.folder / SLOT_NAME, record.model_dump(mode="json"))
    lineage = Lineage(
        parent=plan.compared.version if plan.compared and not plan.is_cold else None,
        run_id=run.state.run_id,
        slot=plan.slot,
        data_manifest=sha256_of(config.dataset_dir / INDEX_NAME),
        vocabulary_version=index.vocabulary_version,
        schema_fingerprint=index.schema_fingerprint,
        checkpoint=read_manifest(best_checkpoint(config.checkpoints_dir)).digest,
        config=sha256_of(run.folder / RESOLVED_NAME),
        code_revision=code_revision(),
        reports=(REPORT_JSON, DECISION_JSON),
    )
    return run.registry.publish(dict(_files_of(config)), lineage)


def _files_of(config: RunConfig) -> Iterator[tuple[str, Path]]:
    """What a version consists of, by its names there: enough to serve, to train on, to extend and to judge it."""
    folder, checkpoint = config.workspace_dir, best_checkpoint(config.checkpoints_dir)
    for name in (RESOLVED_NAME, SLOT_NAME, DECISION_JSON, DECISION_HTML):
        yield name, folder / name
    for name in (REPORT_JSON, REPORT_HTML):
        yield name, config.report_dir / name
    for name in (INDEX_NAME, STATISTICS_NAME):
        yield f"{DATASET_FOLDER}/{name}", config.dataset_dir / name
    for name, below in (
        (f"{DATASET_FOLDER}/{VOCABULARIES_FOLDER}", config.dataset_dir / VOCABULARIES_FOLDER),
        (f"{CHECKPOINT_FOLDER}/{checkpoint.name}", checkpoint),
        (EXPORT_FOLDER, config.export_dir),
    ):
        for path in sorted(below.rglob("*")):
            if path.is_file():
                yield f"{name}/{path.relative_to(below).as_posix()}", path


def _promote(run: SlotRun) -> None:
    decision, version = read_decision(run.folder), run.state.version
    assert version is not None
    # One that was promoted by an attempt that was killed may have been rolled back since.
    is_new = all(one.version != version for one in run.registry.promotions().history)
    if decision.promoted and is_new:
        reason = f"{run.state.run_id}: all {len(decision.rules)} rules passed"
        run.registry.promote(version, token=run.lease.token, reason=reason)


def _score(run: SlotRun) -> None:
    champion = run.registry.champion()
    if run.retrain.score and champion is not None:
        folder = run.registry.fetch(champion.version, run.folder / COPY_FOLDER)
        score(run.config, run.executor, exported=folder / EXPORT_FOLDER, overwrite=True, progress=run.progress)
