"""The main job: preprocess, train, evaluate and score, one after the other, from one configuration."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.assemble import check_model
from pipeline.errors import UsageError
from pipeline.evaluate.run import check_evaluate, evaluate, write_page
from pipeline.executor import Executor, Progress
from pipeline.preprocess.run import preprocess
from pipeline.run_config import RunConfig
from pipeline.score.run import check_score, score
from pipeline.shards.remote import is_complete
from pipeline.train.run import check_training, train

# Called with the name of the stage that begins; returns what shows its progress.
StartStage = Callable[[str], Progress | None]


def run(
    config: RunConfig,
    executor: Executor,
    start_stage: StartStage,
    *,
    resume: bool = False,
    overwrite: bool = False,
    fallback: bool = False,
) -> dict[str, Any]:
    """Runs every stage the configuration has and returns the evaluation report.

    With `resume`, a complete dataset is kept and training goes on from its newest checkpoint; with `fallback` too, from
    the one before it if that one is damaged.

    Raises:
        UsageError: the workspace holds a run, and neither `resume` nor `overwrite` was asked for.
        GatehouseError: what a stage raises.
    """
    # Everything that can be wrong without reading a row is found before the first row is read.
    check_model(config.data_schema, config.model)
    check_training(config)
    check_evaluate(config)
    if config.score is not None:
        check_score(config)
    has_dataset = is_complete(config.dataset_dir, config.remote_dataset)
    if has_dataset and not (resume or overwrite):
        raise UsageError(
            f"{config.remote_dataset or config.workspace_dir} already holds a run",
            "add --resume to continue it, or --overwrite to start anew",
        )
    is_resumed = resume and has_dataset
    if not is_resumed:
        preprocess(config, executor, start_stage("preprocess"), overwrite=overwrite)
        _forget_results(config)
    train(config, resume=is_resumed, overwrite=not is_resumed, fallback=fallback, progress=start_stage("train"))
    report = evaluate(config, executor, progress=start_stage("evaluate"))
    if config.score is not None:
        score(config, executor, overwrite=True, progress=start_stage("score"))
        write_page(config, report)
    return report


def _forget_results(config: RunConfig) -> None:
    """Removes what an earlier run made of an earlier dataset."""
    folders: list[Path] = [config.checkpoints_dir, config.report_dir, config.export_dir, config.scores_dir]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
