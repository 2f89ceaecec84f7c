"""Starts a run from the parameters of an earlier one: what fits is loaded, tables grow, the rest stays new."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import ArtifactError
from pipeline.schema import Schema
from pipeline.shards.manifest import DatasetIndex
from pipeline.train.checkpoints.checkpoint import CheckpointManifest
from pipeline.train.checkpoints.lineage import changed_tables
from pipeline.train.checkpoints.reader import load_tensors, saved_sizes
from pipeline.train.checkpoints.sharded_tensors import first_rows
from pipeline.train.tables.initial_weights import table_of as table_of_weight

WARM_START_NAME = "warm_start.json"


def warm_start(
    checkpoint: Path,
    manifest: CheckpointManifest,
    state: Mapping[str, Any],
    table_of: Mapping[str, str],
    index: DatasetIndex,
    dataset_dir: Path,
) -> dict[str, Any]:
    """Fills the tensors of `state` that the checkpoint has, in place, and says what it did. A collective.

    A table is loaded when the rows of the checkpoint mean the same values here, and may have more rows here: the old
    rows and their optimizer state are those of the checkpoint, the others keep what they have. All that is not a table
    is loaded when the model has the same inputs and tasks. `table_of` gives the configured table of each table.

    Returns {"checkpoint", "step", "loaded": names, "grown": {name: [rows before, rows now]}, "new": names, "left_out":
    names of the checkpoint, "changed_tables": tables whose rows mean something else}.
    """
    sizes = saved_sizes(checkpoint)
    changed = changed_tables(manifest, index, dataset_dir)
    has_same_inputs = _inputs_of(manifest.data_schema) == _inputs_of(index.data_schema)
    loaded: dict[str, Any] = {}
    grown: dict[str, list[int]] = {}
    new = []
    for name, parameter, value in _flatten(state):
        table = table_of_weight(parameter)
        is_known = has_same_inputs if table is None else table_of[table] not in changed
        before, now = sizes.get(name), value.size()
        if is_known and before == now:
            loaded[name] = value
        elif is_known and table is not None and before is not None and before[1:] == now[1:] and before[0] < now[0]:
            loaded[name] = first_rows(value, before[0])
            grown[name] = [before[0], now[0]]
        else:
            new.append(name)
    if not loaded:
        raise ArtifactError(
            f"checkpoint {checkpoint} has nothing that fits this model", "give another train.warm_start, or remove it"
        )
    load_tensors(checkpoint, loaded, is_distributed=True)
    return {
        "checkpoint": str(checkpoint),
        "step": manifest.step,
        "loaded": sorted(loaded.keys() - grown.keys()),
        "grown": grown,
        "new": sorted(new),
        "left_out": sorted(sizes.keys() - loaded.keys()),
        "changed_tables": changed,
    }


def describe_warm_start(workspace: Path) -> list[str]:
    """What `warm_start` did at the start of a run, in a few lines for people; none if there was no warm start."""
    path = workspace / WARM_START_NAME
    if not path.is_file():
        return []
    report = json.loads(path.read_bytes())
    lines = [
        f"warm start from {report['checkpoint']}, step {report['step']}: {len(report['loaded'])} tensors loaded, "
        f"{len(report['grown'])} grown, {len(report['new'])} new, {len(report['left_out'])} left out"
    ]
    for name, (before, now) in report["grown"].items():
        if (table := table_of_weight(name)) is not None:
            lines.append(f"table {table} grown from {before:,} to {now:,} rows")
    lines += [
        f"warning: table {table} starts anew: the rows of its vocabulary mean other values than in the checkpoint"
        for table in report["changed_tables"]
    ]
    return lines


def _inputs_of(schema: Schema) -> tuple[Any, ...]:
    """What decides which column of the dense part is which."""
    return (
        [feature.name for feature in schema.sparse_features],
        list(schema.dense_names),
        [(task.name, task.kind, task.space) for task in schema.tasks],
    )


def _flatten(state: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """(name in the checkpoint, parameter it belongs to, tensor) of every tensor."""
    for parameter, value in state["model"].items():
        yield f"model.{parameter}", parameter, value
    for parameter, values in state["optimizer"].items():
        for key, value in values.items():
            yield f"optimizer.{parameter}.{key}", parameter, value
