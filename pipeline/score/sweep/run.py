"""The sweep: scores a split once, ranks it by every trial, and writes sweep.json and sweep.html."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.config import dump
from pipeline.evaluate.prediction_table import REQUEST_COLUMN, USER_COLUMN
from pipeline.evaluate.scoring import PREDICTIONS_FOLDER, score_split
from pipeline.executor import Executor, InProcessExecutor, Progress
from pipeline.files import write_text
from pipeline.run_config import RunConfig
from pipeline.score.sweep.measure import CHOOSING, REPORTING, Sums, measure_rankings
from pipeline.score.sweep.page import render_sweep
from pipeline.score.sweep.results import Results, judge
from pipeline.score.sweep.trials import Plan, plan_sweep
from pipeline.shards.manifest import DatasetIndex, check_schema
from pipeline.shards.remote import fetch_index, fetch_shards
from pipeline.train.checkpoints.checkpoint import best_checkpoint, read_manifest

SWEEP_VERSION = 1
SWEEP_FOLDER = "sweep"
SWEEP_JSON, SWEEP_HTML = "sweep.json", "sweep.html"
MIN_LONG_FRACTION = 0.1


def sweep(
    config: RunConfig,
    executor: Executor | None = None,
    *,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measures every trial of `score.sweep`, writes sweep.json and sweep.html and returns what the former holds.

    A sweep that was interrupted goes on with the rows that are not scored yet. The same checkpoint, data and
    configuration give the same files, whatever the executor; the default one is this process.

    Raises:
        ConfigError: the section is missing or wrong, or no trial can be measured.
        ArtifactError: the dataset or a checkpoint is missing, damaged or of another schema.
        DataError: a label cannot be used, or there is nothing to rank.
    """
    plan = plan_sweep(config)
    assert config.score is not None
    assert config.score.sweep is not None
    section = config.score.sweep
    executor = executor or InProcessExecutor()
    index = fetch_index(config.dataset_dir, config.remote_dataset)
    check_schema(index, config.data_schema, config.dataset_dir)
    fetch_shards(config.dataset_dir, config.remote_dataset, index.of_split(section.split), progress)
    checkpoint = checkpoint or best_checkpoint(config.checkpoints_dir)
    evaluate = config.evaluate.model_copy(
        update={"split": section.split, "slices": (), "truth": None, "baseline": None, "predictions": None}
    )
    scored = config.model_copy(update={"evaluate": evaluate})
    table, _ = score_split(scored, index, checkpoint, executor, progress)
    outputs = [name for task in config.data_schema.tasks for name in task.output_names]
    sums = measure_rankings(plan, outputs, table.parts, executor, config.evaluate.num_replicates, progress)
    report = _describe(config, plan, sums, index, checkpoint)
    folder = config.workspace_dir / SWEEP_FOLDER
    dump(config, folder)
    write_text(folder / SWEEP_JSON, json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    render_sweep(report, folder / SWEEP_HTML)
    shutil.rmtree(config.report_dir / PREDICTIONS_FOLDER)
    with suppress(OSError):
        config.report_dir.rmdir()  # where it holds a report, that stays
    return report


def _describe(config: RunConfig, plan: Plan, sums: Sums, index: DatasetIndex, checkpoint: Path) -> dict[str, Any]:
    assert config.score is not None
    assert config.score.sweep is not None
    section, keys = config.score.sweep, config.data_schema.keys
    results = Results(plan, sums)
    place, is_on_front = results.choose(section.metric), results.front()
    entries = [results.describe(number, bool(is_on_front[number])) for number in range(len(plan.rankings))]
    references = [entry for entry, one in zip(entries, plan.rankings, strict=True) if one.role != "trial"]
    current = next((one for one in plan.rankings if one.role == "current"), None)
    unit = USER_COLUMN if keys.user else REQUEST_COLUMN
    return {
        "sweep_version": SWEEP_VERSION,
        "title": config.workspace_dir.name,
        "split": section.split,
        "model": {"step": read_manifest(checkpoint).step, "path": str(checkpoint)},
        "schema_fingerprint": index.schema_fingerprint,
        "formula": section.formula,
        "k": plan.k,
        "values": dict(plan.values),
        "metric": section.metric,
        "unit": unit,
        "ranked_within": REQUEST_COLUMN if keys.request else USER_COLUMN,
        "num_replicates": config.evaluate.num_replicates,
        "choosing": _half(sums, CHOOSING),
        "reporting": _half(sums, REPORTING),
        "references": references,
        "trials": entries[len(references) :],
        "best": place - len(references),
        "fusion": plan.rankings[place].formula,
        "verdict": judge(entries[place], current, section.metric, plan.k, f"{unit}s"),
        "notes": _notes(plan, sums, section.split),
    }


def _half(sums: Sums, half: int) -> dict[str, int]:
    return {name: int(getattr(sums, name)[half]) for name in ("rows", "units", "lists", "long_lists")}


def _notes(plan: Plan, sums: Sums, split: str) -> list[str]:
    notes = []
    if split == "test":
        notes.append("chosen on the test split, which can no longer tell how good the chosen formula is on unseen rows")
    if plan.unused:
        notes.append(f"the formula in use is not compared: {plan.unused}; a scored split has the model's outputs alone")
    num_long, num_lists = int(sums.long_lists.sum()), int(sums.lists.sum())
    if num_long < MIN_LONG_FRACTION * num_lists:
        notes.append(
            f"{num_long:,} of {num_lists:,} lists have more than {plan.k} rows; the value of the others is the same in "
            "any order: choose a smaller k, or choose by the NDCG of a task"
        )
    return notes
