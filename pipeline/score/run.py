"""The score stage: candidate sets are scored and fused, and the best of each request are written."""

import json
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from models.tasks import output_names
from pipeline.assemble import tasks_of
from pipeline.config import dump
from pipeline.errors import ConfigError, DataError, GatehouseError, StorageError, UsageError
from pipeline.executor import Executor, InProcessExecutor, Progress
from pipeline.files import write_json
from pipeline.preprocess.joins.staging import stage_table
from pipeline.preprocess.raw_files.sources import describe_files, list_files
from pipeline.run_config import RunConfig
from pipeline.score.candidates.cut import cut_units
from pipeline.score.candidates.plan import available_columns, plan_candidates
from pipeline.score.candidates.units import Unit
from pipeline.score.config import ScoreConfig
from pipeline.score.model import ScoringModel, open_model
from pipeline.score.parts import MANIFEST_NAME, WORK_FOLDER, Work, write_part
from pipeline.score.rules import Rules, parse_rules
from pipeline.score.scorer import Counts, Scorer, ranked_columns
from pipeline.train.checkpoints.lineage import describe_newer_values

FORMAT = 1


def check_score(config: RunConfig) -> None:
    """Checks the rules of a configuration; names of columns only where the candidates and tables are there already.

    Raises:
        ConfigError: there is no score section, its formula, a filter or a cap is wrong, or two columns of the output
            have one name.
    """
    # What is missing is said by the first stage that reads it.
    with suppress(DataError):
        read_rules(config)


def read_rules(config: RunConfig) -> Rules:
    """The parsed rules of a configuration, checked before any row is read.

    Raises:
        ConfigError: as `check_score`.
        DataError: a filter or a cap names a column, and the candidates or a table is not there.
    """
    if config.score is None:
        raise ConfigError("the configuration has no score section", "add score: candidates, items_column and fusion")
    outputs = output_names(tasks_of(config.data_schema, config.model, None))
    columns = ranked_columns(config.data_schema.keys, outputs)
    for name in columns:
        if columns.count(name) > 1:
            raise ConfigError(
                f"the ranked candidates would have two columns {name!r}: {', '.join(columns)}",
                f"rename the task or the key column {name!r} in the schema",
            )
    try:
        return parse_rules(config.score, outputs, ())
    except ConfigError:
        # Only now is it worth to look into the files for columns.
        try:
            columns = available_columns(config, config.score)
        except DataError:
            if config.score.filters or config.score.caps:
                raise
            columns = []
        return parse_rules(config.score, outputs, columns)


def score(
    config: RunConfig,
    executor: Executor | None = None,
    *,
    checkpoint: Path | None = None,
    exported: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Writes the ranked candidates as `part-00000.parquet` ... and manifest.json, and returns their folder.

    Columns: the request and user keys, rank (from 1), the item key, score, each output of the model, model_version. The
    folder appears complete, by rename; until then an earlier one stays. What was finished of the same work is kept when
    it is interrupted, and the same bytes come out, whatever the executor; the default one is this process. `exported`
    is the folder of an export to score with; otherwise it is that of the checkpoint, by default the best one.

    Raises:
        UsageError: the folder holds ranked candidates already, and `overwrite` is false.
        ConfigError, DataError, ArtifactError: the formula, the candidates or the checkpoint is wrong.
        StorageError: the disk is full or does not answer.
    """
    executor = executor or InProcessExecutor()
    rules = read_rules(config)
    assert config.score is not None
    folder = config.scores_dir
    if (folder / MANIFEST_NAME).exists() and not overwrite:
        raise UsageError(f"{folder} holds ranked candidates already", "choose another `workspace`, or add --overwrite")
    config.check_inputs()
    files = _describe_files(config, config.score)
    model = open_model(config, checkpoint, exported, progress)
    work = Work(config.workspace_dir / WORK_FOLDER, config.score.format)
    work.begin(_describe_work(config, config.score, model, files))
    try:
        _score(config, config.score, rules, model, work, executor, progress)
    except GatehouseError as error:
        # Another attempt would do the same, but after a full disk.
        if not isinstance(error, StorageError):
            work.remove()
        raise
    work.finish(folder)
    return folder


def describe_ranking(folder: Path) -> list[str]:
    """What a person should know of ranked candidates: a line for each feature with values newer than the model."""
    return describe_newer_values(json.loads((folder / MANIFEST_NAME).read_bytes())["newer_values"])


def _describe_files(config: RunConfig, section: ScoreConfig) -> list[list[Any]]:
    """The files of candidates and tables as they are now."""
    files = list_files(config.source(section.candidates))
    for table in config.preprocess.tables:
        files += list_files(table.model_copy(update={"path": config.input_path(table.path)}))
    return [[file, *found] for file, found in zip(files, describe_files(files), strict=True)]


def _describe_work(
    config: RunConfig, section: ScoreConfig, model: ScoringModel, files: list[list[Any]]
) -> dict[str, Any]:
    """What decides the bytes of a ranking."""
    return {
        "format": FORMAT,
        "schema": config.data_schema.model_dump(mode="json"),
        "score": section.model_dump(mode="json", exclude={"sweep"}),
        "tables": [table.model_dump(mode="json") for table in config.preprocess.tables],
        "model": model.version,
        "vocabulary_version": model.fitted.version,
        "known_rows": model.known_rows,
        "device": config.train.device,
        "files": files,
    }


def _score(
    config: RunConfig,
    section: ScoreConfig,
    rules: Rules,
    model: ScoringModel,
    work: Work,
    executor: Executor,
    progress: Progress | None,
) -> None:
    """Makes the ranking in the folder of the work."""
    plan = plan_candidates(config, section, model.fitted, rules.columns, work.tables_folder)
    units = cut_units(plan, work.unzipped_folder, work.regrouped_folder, executor, progress)
    for table in (*plan.request.tables, *plan.item.tables, *plan.row.tables):
        stage_table(table, executor, progress)
    load = partial(Scorer, config, model, plan)
    entries = _write_parts(work, units, load, executor, progress)
    dump(config, work.ranked_folder)
    manifest = {
        "fusion": rules.fusion.formula,
        "filters": list(section.filters),
        "caps": [cap.model_dump() for cap in section.caps],
        "top_k": section.top_k,
        "checkpoint": model.checkpoint,
        "model_version": model.version,
        "requests": sum(entry["requests"] for entry in entries),
        **{name: sum(entry[name] for entry in entries) for name in Counts._fields},
        "files": [{name: entry[name] for name in ("path", "rows", "sha256")} for entry in entries],
        "newer_values": _sum_counts([entry["newer_values"] for entry in entries]),
    }
    write_json(work.ranked_folder / MANIFEST_NAME, manifest)


def _write_parts(
    work: Work, units: list[Unit], load: partial[Scorer], executor: Executor, progress: Progress | None
) -> list[dict[str, Any]]:
    """Makes the parts that are missing, and returns what is told of each."""
    missing = work.missing(units)
    made = {unit.number for unit in missing}
    found = [work.entry(unit) for unit in units if unit.number not in made]
    done = sum(entry["requests"] for entry in found)
    num_candidates = sum(entry["candidates"] for entry in found)
    total = sum(unit.num_requests for unit in units)
    if progress:
        progress("requests ranked", done, total, num_candidates, "candidates")
    for entry in executor.map_with(load, partial(write_part, work), missing):
        done += entry["requests"]
        num_candidates += entry["candidates"]
        if progress:
            progress("requests ranked", done, total, num_candidates, "candidates")
    return [work.entry(unit) for unit in units]


def _sum_counts(counts: list[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """The newer values of all parts: {feature: {"values", "newer"}}."""
    return {
        feature: {what: sum(one[feature][what] for one in counts) for what in known}
        for feature, known in counts[0].items()
    }
