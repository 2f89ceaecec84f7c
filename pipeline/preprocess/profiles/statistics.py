"""`statistics.json`: what the raw log held and what became of it; and the checks that it holds enough to train on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import DataError
from pipeline.feature_kinds import NumericFeature
from pipeline.files import retry
from pipeline.preprocess.config import ColumnSplit, PreprocessConfig, TimeHashSplit, TimeSplit
from pipeline.preprocess.log import RawLog, await_rows, no_rows
from pipeline.preprocess.profiles.survey import Counts, Survey
from pipeline.preprocess.transform import FittedTransform
from pipeline.schema import Schema
from pipeline.shards.manifest import SPLITS, STATISTICS_NAME, LabelStatistics


def read_statistics(dataset_dir: Path) -> dict[str, Any]:
    """What `describe` gave when the dataset was made; empty if it is not there."""
    path = dataset_dir / STATISTICS_NAME
    content: dict[str, Any] = json.loads(retry(path.read_bytes, path)) if path.is_file() else {}
    return content


def check_findings(findings: Survey, log: RawLog, config: PreprocessConfig) -> None:
    """Raises a DataError when a split has no rows, or a task no training row that it is defined on and that counts."""
    schema = log.schema
    _check_splits(findings, log, config)
    for task in schema.tasks:
        num_rows = findings.labels[task.name, "train"].count
        if num_rows > findings.counts["tasks", task.name, "zero_weight_rows", "train"]:
            continue
        if num_rows:
            raise DataError(
                f"task {task.name!r}: column {schema.weight!r} is 0 in every training row that the task is defined on",
                "give rows to train on a weight above 0, or remove the task",
            )
        if findings.counts["tasks", task.name, "nulls", "train"] == findings.num_rows("train"):
            raise DataError(
                f"task {task.name!r}: label column {task.label!r} is null in every training row",
                "name another column as its label, or remove the task",
            )
        raise DataError(
            f"task {task.name!r} is defined on no training row: none has {task.space!r} = 1 and a label",
            "give more training rows, or another `space`",
        )

    # The validation loss decides which checkpoint is best.
    if findings.counts["zero_weight_rows", "validation"] == findings.num_rows("validation"):
        raise DataError(
            f"column {schema.weight!r}, the weight, is 0 in every row of the validation split",
            "give rows to validate on a weight above 0, or move the split",
        )


def _check_splits(findings: Survey, log: RawLog, config: PreprocessConfig) -> None:
    rows = {split: findings.num_rows(split) for split in SPLITS}
    if not any(rows.values()):
        raise no_rows(config.log.path, log.window)
    if all(rows.values()):
        return
    empty = next(split for split in SPLITS if not rows[split])
    found = ", ".join(f"{split} {count:,}" for split, count in rows.items())
    if isinstance(config.split, TimeSplit | TimeHashSplit):
        boundaries = "validation_from or test_from" if isinstance(config.split, TimeSplit) else "test_from"
        raise DataError(
            f"the {empty} split has no row ({found}); column {config.split.column!r} goes from {findings.span}",
            f"{await_rows(log.window)}move preprocess.split.{boundaries}",
        )
    if isinstance(config.split, ColumnSplit):
        raise DataError(
            f"the {empty} split has no row ({found})",
            f"give values of column {config.split.column!r} under preprocess.split.validation and test",
        )
    raise DataError(
        f"the {empty} split has no row ({found})", "change the fractions of preprocess.split, or give more rows"
    )


def label_statistics(findings: Survey, schema: Schema) -> dict[str, LabelStatistics]:
    """Of each task's label, over the training rows on which the task is defined."""
    moments = {task.name: findings.labels[task.name, "train"] for task in schema.tasks}
    return {
        name: LabelStatistics(rows=values.count, mean=values.mean, deviation=values.deviation)
        for name, values in moments.items()
    }


def describe(
    log: RawLog, findings: Survey, fitted: FittedTransform, encoded: Counts, tables: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """The content of statistics.json, each count by split.

    `encoded` are the counts of the second pass, `tables` what is told of each table with a vocabulary.
    """
    content = _as_tree({**findings.counts, **encoded})
    for feature in log.schema.features:
        measures = content["features"][feature.name]
        measures["kind"] = feature.kind
        if isinstance(feature, NumericFeature):
            measures |= fitted.normalizations[feature.name].model_dump()
            measures["profile"] = {"train": findings.numbers[feature.name].describe()}
            continue
        if feature.name in findings.lengths:
            measures["lengths"] = {"train": findings.lengths[feature.name].describe()}
        measures["table"] = feature.table_name
        measures["unseen_fraction"] = {
            split: measures["unseen"][split] / max(values, 1) for split, values in measures["values"].items()
        }
    for (task, split), labels in findings.labels.items():
        content["tasks"][task].setdefault("rows", {})[split] = labels.count
        if "classes" not in content["tasks"][task]:
            content["tasks"][task].setdefault("mean", {})[split] = labels.mean if labels.count else None
    content["tables"] = {name: {"rows": rows} for name, rows in fitted.table_rows.items()}
    for name, told in tables.items():
        content["tables"][name] |= told
    content["quarantine"] = findings.quarantine.describe()
    if log.window:
        content["window"] = {"column": log.window.column, "rows_outside": findings.num_outside}
    return content


def _as_tree(counts: Mapping[tuple[str, ...], int]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, count in counts.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = count
    return tree
