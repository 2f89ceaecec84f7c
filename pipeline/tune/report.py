"""The report of a search: every trial beside trial 0, best first, as tune.json, tune.html and best.yaml."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipeline.errors import TrainingError
from pipeline.files import write_json, write_text
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import DatasetIndex
from pipeline.tune.form import TUNE_VERSION, Outcome, Trial, TuneReport, tune_schema
from pipeline.tune.objective import judge, order, tuned_tasks
from pipeline.tune.page import render_tune
from pipeline.tune.plan import TRIALS_FOLDER, TUNE_FOLDER, Planned
from pipeline.tune.space import values_in, with_values
from pipeline.tune.summary import summarise

TUNE_JSON, TUNE_HTML, BEST_YAML, SCHEMA_JSON = "tune.json", "tune.html", "best.yaml", "tune.schema.json"


def judge_trials(config: RunConfig, outcomes: Mapping[int, Outcome]) -> list[Trial]:
    """The trials in the order of their numbers; none before trial 0 is over."""
    assert config.tune is not None
    if 0 not in outcomes:
        return []
    tasks = tuned_tasks(config.data_schema, config.tune.weights)
    return [judge(number, outcomes[number], outcomes[0], tasks, config.tune.constraints) for number in sorted(outcomes)]


def write_report(
    config: RunConfig,
    settings: Mapping[str, Any],
    plan: Sequence[Planned],
    outcomes: Mapping[int, Outcome],
    index: DatasetIndex,
) -> TuneReport:
    """Writes the report of trials that are all over, or failed, and returns what tune.json holds.

    Raises:
        TrainingError: trial 0 or every trial failed; the report is there.
    """
    assert config.tune is not None
    section, folder = config.tune, config.workspace_dir / TUNE_FOLDER
    base = values_in(config, section.parameters)
    trials = [
        one if one.number else one.model_copy(update={"parameters": base}) for one in judge_trials(config, outcomes)
    ]
    ranking = sorted(trials, key=order)
    best = ranking[0] if ranking[0].feasible else None
    report = TuneReport(
        tune_version=TUNE_VERSION,
        title=config.workspace_dir.name,
        split="validation",
        schema_fingerprint=index.schema_fingerprint,
        parameters=section.parameters,
        seed=section.seed,
        tasks=tuned_tasks(config.data_schema, section.weights),
        constraints=section.constraints,
        trials=trials,
        ranking=[one.number for one in ranking],
        best=best.number if best else None,
        summary=[],
        notes=[],
    )
    report = summarise(report, section.trials, folder / TRIALS_FOLDER)
    (folder / BEST_YAML).unlink(missing_ok=True)
    if best is not None:
        chosen = with_values(settings, plan[best.number].values)
        write_text(folder / BEST_YAML, yaml.safe_dump(chosen, sort_keys=False, allow_unicode=True))
    write_json(folder / SCHEMA_JSON, tune_schema())
    write_text(folder / TUNE_JSON, report.model_dump_json(indent=1) + "\n")
    render_tune(report, folder / TUNE_HTML)
    if trials[0].failed is not None:
        what = "every trial failed" if all(one.failed for one in trials) else "there is nothing to compare with"
        raise TrainingError(
            f"{what}: trial 0, the configuration as it stands: {trials[0].failed.rstrip('.')}",
            f"mend the configuration so that it trains; {folder / TUNE_HTML} has all trials",
        )
    return report
