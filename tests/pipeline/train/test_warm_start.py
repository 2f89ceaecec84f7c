"""Starting from an earlier run: what fits is loaded, tables grow with their vocabulary, the rest starts anew."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from gloo_ranks import train_on_ranks

from pipeline.errors import ArtifactError, UsageError
from pipeline.preprocess.hashing import hash64
from pipeline.preprocess.vocabulary import FILE_SCHEMA, Vocabulary
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import SPARSE_PREFIX, read_index, write_index
from pipeline.shards.vocabularies import vocabulary_path
from pipeline.shards.writer import write_shard
from pipeline.train.checkpoints.checkpoint import list_checkpoints
from pipeline.train.checkpoints.reader import load_tensors, saved_sizes
from pipeline.train.checkpoints.warm_start import WARM_START_NAME, describe_warm_start
from pipeline.train.run import train

NUM_NEW = 20
STATE = "optimizer.model.front_end.embeddings.embedding_bags.{0}.weight.{0}.momentum1"
WEIGHT = "model.model.front_end.embeddings.embedding_bags.{0}.weight"
SETTINGS = {"sharding": {"default": "row_wise"}}


def tensors_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    tensors = {name: torch.zeros(size) for name, size in saved_sizes(checkpoint).items()}
    load_tensors(checkpoint, tensors, is_distributed=False)
    return tensors


def change_vocabulary(config: RunConfig, table: str, change: Callable[[list[str]], list[str]]) -> int:
    """Replaces the values of a vocabulary; returns the rows that its table had."""
    path = vocabulary_path(config.dataset_dir, table)
    vocabulary = Vocabulary.load(path)
    values = change([value for batch in vocabulary.batches for value in batch.column("value").to_pylist()])
    columns = [values, [1] * len(values), hash64(pa.array(values, pa.string()))]
    Vocabulary((pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=FILE_SCHEMA),)).save(path)
    return vocabulary.num_rows


def grow_items(config: RunConfig) -> int:
    """Adds values to the items' vocabulary, and gives every tenth row of the log one of them."""
    before = change_vocabulary(config, "item_id", lambda values: [*values, *(f"new {n}" for n in range(NUM_NEW))])
    folder, index = config.dataset_dir, read_index(config.dataset_dir)
    shards = []
    for shard in index.shards:
        table = pa.ipc.open_file(pa.OSFile(str(folder / shard.path))).read_all()
        place = table.column_names.index(SPARSE_PREFIX + "item_id")
        ids = table.column(place).to_numpy().copy()
        ids[::10] = before + np.arange(len(ids[::10])) % NUM_NEW
        table = table.set_column(place, table.schema.field(place), pa.array(ids))
        shards.append(write_shard(folder / shard.path, table, shard.split))
    rows = {**index.table_rows, "item_id": before + NUM_NEW}
    grown = index.model_copy(update={"shards": tuple(shards), "table_rows": rows, "vocabulary_version": "grown"})
    write_index(folder, grown)
    return before


def report_of(config: RunConfig) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((config.workspace_dir / WARM_START_NAME).read_text())
    return report


@pytest.fixture
def champion(make_config: Any) -> tuple[RunConfig, Path]:
    config = make_config("champion", train=SETTINGS)
    return config, train(config)


@pytest.mark.slow
def test_a_grown_table_keeps_its_old_rows_and_their_optimizer_state(
    champion: tuple[RunConfig, Path], make_config: Any, tmp_path: Path
) -> None:
    warm = {**SETTINGS, "warm_start": str(champion[1])}
    one_step = make_config("one step", train={**warm, "global_batch_size": 8})
    before = grow_items(one_step)
    train_on_ranks(one_step, 2, tmp_path / "store", stop_after=1)
    report = report_of(one_step)
    assert report["grown"] == {name.format("item_id"): [before, before + NUM_NEW] for name in (WEIGHT, STATE)}
    assert report["new"] == report["left_out"] == report["changed_tables"] == []
    line = f"table item_id grown from {before:,} to {before + NUM_NEW:,} rows"
    assert line in describe_warm_start(one_step.workspace_dir)

    old, stepped = tensors_of(champion[1]), tensors_of(list_checkpoints(one_step.checkpoints_dir)[-1])
    weight, state = (stepped[name.format("item_id")] for name in (WEIGHT, STATE))
    # Of an old row either the step saw it, and its state grew, or nothing of it changed.
    is_seen = state[:before] > old[STATE.format("item_id")]
    assert 0.2 < is_seen.float().mean() < 0.8
    assert torch.equal(state[:before][~is_seen], old[STATE.format("item_id")][~is_seen])
    assert torch.equal(weight[:before][~is_seen], old[WEIGHT.format("item_id")][~is_seen])

    trained = make_config("trained", train=warm)
    grow_items(trained)
    found = tensors_of(train(trained))
    assert bool((found[STATE.format("item_id")][before:] > 0).all())
    assert not torch.equal(found[WEIGHT.format("item_id")][before:], weight[before:])


def test_a_table_whose_rows_mean_other_values_starts_anew(champion: tuple[RunConfig, Path], make_config: Any) -> None:
    config = make_config("next", train={**SETTINGS, "warm_start": str(champion[1])})
    change_vocabulary(config, "user_id", lambda values: values[::-1])
    train(config)
    report = report_of(config)
    assert report["changed_tables"] == ["user_id"]
    assert sorted(report["new"]) == sorted(report["left_out"])
    assert {name.format("user_id") for name in (WEIGHT, STATE)} == set(report["new"])
    assert any("warning: table user_id starts anew" in line for line in describe_warm_start(config.workspace_dir))


def test_other_towers_start_anew_and_the_rest_is_kept(champion: tuple[RunConfig, Path], make_config: Any) -> None:
    config = make_config("next", model={"tower_widths": [4]}, train={**SETTINGS, "warm_start": str(champion[1])})
    train(config)
    report = report_of(config)
    assert {name.format("item_id") for name in (WEIGHT, STATE)} <= set(report["loaded"])
    assert report["new"]
    assert all("towers" in name for name in report["new"])


def test_a_warm_start_from_nothing_is_one_line(make_config: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a complete checkpoint") as caught:
        train(make_config(train={"warm_start": str(tmp_path / "nowhere")}))
    assert "\n" not in str(caught.value)


def test_the_checkpoint_of_a_warm_start_is_not_overwritten(champion: tuple[RunConfig, Path], make_config: Any) -> None:
    config = make_config("champion", train={**SETTINGS, "warm_start": str(champion[1])})
    with pytest.raises(UsageError, match="which --overwrite removes"):
        train(config, overwrite=True)
    assert champion[1].is_dir()
