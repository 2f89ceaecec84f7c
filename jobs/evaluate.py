"""`gatehouse evaluate`: a checkpoint, or a finished table of predictions, to a report."""

from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.options import Checkpoint, ConfigPath, Overrides, executor_of, load
from jobs.terminal import print_alarms, print_report, screen
from pipeline.errors import UsageError
from pipeline.lock import locked
from pipeline.run_config import RunConfig
from pipeline.storage import is_remote

Baseline = Annotated[
    str | None,
    typer.Option("--baseline", help="A checkpoint folder to compare with, on the same rows.", metavar="DIR"),
]
Predictions = Annotated[
    str | None,
    typer.Option(
        "--predictions", help="Measure this finished table instead: no dataset, no checkpoint.", metavar="FILE"
    ),
]


def main(
    config: ConfigPath,
    set_: Overrides = None,
    checkpoint: Checkpoint = None,
    baseline: Baseline = None,
    predictions: Predictions = None,
) -> None:
    """Measure a checkpoint on the test split, each task on its own rows; or a finished table of predictions."""
    run_config = _with_options(load(config, set_), checkpoint, baseline, predictions)
    from pipeline.evaluate.run import REPORT_HTML, evaluate, evaluate_table

    with locked(run_config.workspace_dir, "evaluate"), executor_of(run_config) as executor, screen() as shown:
        progress = shown.start_stage("evaluate")
        if run_config.evaluate.predictions:
            report = evaluate_table(run_config, executor, progress=progress)
        else:
            chosen = Path(checkpoint) if checkpoint else None
            report = evaluate(run_config, executor, checkpoint=chosen, progress=progress)
    print_report(report)
    if not run_config.evaluate.predictions:
        from pipeline.shards.manifest import read_index, unlisted_shards

        print_alarms(unlisted_shards(run_config.dataset_dir, read_index(run_config.dataset_dir)))
    print(f"report: {run_config.report_dir / REPORT_HTML}")


def _with_options(
    config: RunConfig, checkpoint: str | None, baseline: str | None, predictions: str | None
) -> RunConfig:
    """The configuration with what the command line says; paths there start from the current folder."""
    section: dict[str, Any] = config.evaluate.model_dump()
    if predictions and (checkpoint or baseline):
        raise UsageError(
            f"--predictions goes without --{'checkpoint' if checkpoint else 'baseline'}",
            "give one of them; the columns baseline_<output> of a finished table are what it is compared with",
        )
    if predictions:
        path = predictions if is_remote(predictions) else str(Path(predictions).absolute())
        section |= {"predictions": {**(section["predictions"] or {}), "path": path}, "baseline": None}
    elif checkpoint or baseline:
        section |= {"predictions": None, "baseline": baseline or section["baseline"]}
    evaluate = type(config.evaluate).model_validate(section)
    return config.model_copy(update={"evaluate": evaluate})
