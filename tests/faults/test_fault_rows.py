"""Rows that are few, endless, of one class only, or hold ids that no table has."""

import json
import math
import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gloo_ranks import train_on_ranks
from small_model import BALANCER_OPTIONS
from tampered import DATA_EXIT_CODE, gatehouse, new_draw, one_line, read_shard, rewrite, with_column

from pipeline.config import build
from pipeline.errors import ArtifactError
from pipeline.evaluate.run import evaluate
from pipeline.executor import InProcessExecutor
from pipeline.files import sha256_of
from pipeline.preprocess.run import preprocess
from pipeline.run_config import RunConfig
from pipeline.shards.assignment import SampleOrder
from pipeline.shards.collate import Layout, collate
from pipeline.shards.manifest import (
    LABELS_COLUMN,
    SPARSE_PREFIX,
    STATISTICS_NAME,
    DatasetIndex,
    Split,
    read_index,
    write_index,
)
from pipeline.shards.reader import ShardReader
from pipeline.train.device import has_cuda
from pipeline.train.run import train
from pipeline.train.telemetry import read_history

NUM_RANKS = 4
NUM_IDS = 1_000_000
MAX_LENGTH = 20


# --- one class only

# By the label of `click`: the labels of click, like, purchase and watch in every row.
ONE_CLASS = {1: [1.0, 0.0, 1.0, 5.0], 0: [0.0, 0.0, 0.0, 0.0]}


def relabel(table: pa.Table, _split: Split, click: int) -> pa.Table:
    labels = pa.array([ONE_CLASS[click]] * table.num_rows, table.schema.field(LABELS_COLUMN).type)
    return with_column(table, LABELS_COLUMN, labels)


@pytest.mark.parametrize("click", ONE_CLASS)
def test_batches_of_one_class_have_finite_losses_and_metrics_without_a_value_say_why(
    make_config: Any, click: int
) -> None:
    config = make_config()
    rewrite(config, partial(relabel, click=click))
    train(config)
    history = read_history(config.workspace_dir)
    assert {record["kind"] for record in history} == {"train", "validation"}
    losses = [loss for record in history for loss in record["losses"].values()]
    # A task without a row in a step has no loss, which is null.
    assert all(loss is None or math.isfinite(loss) for loss in losses)
    assert all(math.isfinite(record["total"]) for record in history)
    entries = {entry["name"]: entry["metrics"] for entry in evaluate(config)["tasks"]}
    assert entries["click"]["auc"] == entries["click"]["auc"] | {"value": None, "reason": f"all labels are {click}"}
    assert math.isfinite(entries["click"]["log_loss"]["value"])
    for name, classes in (("like", "all labels are 0"), ("purchase", "all labels are 1")):
        auc = entries[name]["auc"]
        assert (auc["value"], auc["reason"]) == (None, classes if click else "there are no rows"), name
    for metrics in entries.values():
        assert all(metric["value"] is not None or metric["reason"] for metric in metrics.values())


@pytest.mark.parametrize("balancer", sorted(BALANCER_OPTIONS))
def test_a_balancer_stays_finite_where_no_batch_has_a_row_of_three_tasks(make_config: Any, balancer: str) -> None:
    config = make_config(model={"balancer": {"kind": balancer, **BALANCER_OPTIONS[balancer]}})
    rewrite(config, partial(relabel, click=0))
    train(config)
    assert all(math.isfinite(record["total"]) for record in read_history(config.workspace_dir))


# --- few rows


@pytest.mark.slow
def test_ranks_without_a_row_take_every_step_with_the_others(make_config: Any, tmp_path: Path) -> None:
    """3 rows to train on, 2 to validate on and 4 ranks: one that waits for another would hang."""
    settings = {"global_batch_size": NUM_RANKS, "num_lanes": NUM_RANKS, "max_epochs": 2, "early_stopping": None}
    config = make_config(train={**settings, "record_rows": True})
    left = {"train": 3, "validation": 2, "test": 1}

    def shorten(table: pa.Table, split: Split) -> pa.Table:
        kept = min(left[split], table.num_rows)
        left[split] -= kept
        return table.slice(0, kept)

    index = rewrite(config, shorten)
    assert [(shard.split, shard.rows) for shard in index.shards] == [("train", 3), ("validation", 2), ("test", 1)]
    history = train_on_ranks(config, NUM_RANKS, tmp_path / "store")
    assert [record["kind"] for record in history] == ["train", "validation"] * 2
    assert all(math.isfinite(record["total"]) for record in history)
    steps_by_rank = [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted((config.workspace_dir / "rows").iterdir())
    ]
    assert [[record["step"] for record in steps] for steps in steps_by_rank] == [[1, 2]] * NUM_RANKS
    # The last rank's lane is empty.
    assert sorted(len(steps[0]["rows"]) for steps in steps_by_rank) == [0, 1, 1, 1]


def test_a_shard_that_lost_its_rows_is_named(make_config: Any) -> None:
    config = make_config()
    index = read_index(config.dataset_dir)
    shard = index.shards[0]
    path = config.dataset_dir / shard.path
    empty = read_shard(path).slice(0, 0)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, empty.schema):
        pass
    entry = shard.model_copy(update={"bytes": path.stat().st_size, "sha256": sha256_of(path)})
    write_index(config.dataset_dir, index.model_copy(update={"shards": (entry, *index.shards[1:])}))
    with pytest.raises(ArtifactError, match=rf"{shard.path} has 0 rows, expected {shard.rows}\. ") as caught:
        train(config)
    assert caught.value.exit_code == DATA_EXIT_CODE


# --- endless rows


def write_log(folder: Path, *, is_endless: bool) -> RunConfig:
    """20,000 rows with 50 items each; with `is_endless`, one row has a million items and a million tags instead."""
    rng = np.random.default_rng(1)
    num_rows, row = 20_000, 777
    lengths = np.full(num_rows, 50)
    tags = np.array(["red,blue", "blue", "green"], object)[rng.integers(0, 3, num_rows)]
    if is_endless:
        lengths[row] = NUM_IDS
        tags[row] = ",".join(f"tag{number}" for number in range(NUM_IDS))
    offsets = pa.array(np.append(0, np.cumsum(lengths)), pa.int32())
    items = pa.array(rng.integers(0, NUM_IDS, lengths.sum()))
    table = pa.table(
        {
            "history": pa.ListArray.from_arrays(offsets, items),
            "seen": pa.ListArray.from_arrays(offsets, items),
            "tags": pa.array(tags, pa.string()),
            "click": rng.integers(0, 2, num_rows),
        }
    )
    folder.mkdir()
    pq.write_table(table, folder / "log.parquet")
    features = [
        {"name": "history", "kind": "history", "max_length": MAX_LENGTH, "num_hash_buckets": 1000},
        {"name": "seen", "kind": "multi_valued", "max_length": MAX_LENGTH, "num_hash_buckets": 1000},
        {"name": "tags", "kind": "multi_valued", "max_length": MAX_LENGTH, "delimiter": ",", "num_hash_buckets": 1000},
    ]
    schema = {"features": features, "tasks": [{"name": "click", "kind": "binary", "label": "click"}]}
    section = {"log": {"path": "log.parquet"}, "split": {"kind": "order"}}
    data = {"workspace": str(folder / "run"), "inputs": str(folder), "schema": schema, "preprocess": section}
    return build(RunConfig, data, "the tests")


def peak_bytes() -> int:
    """The largest memory of this process so far."""
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024


def preprocess_and_collate(config: RunConfig) -> int:
    """Makes the dataset and one batch with its first rows; returns the peak of memory until then."""
    index = preprocess(config, InProcessExecutor())
    longest_bag(config, index)
    return peak_bytes()


def longest_bag(config: RunConfig, index: DatasetIndex) -> dict[str, int]:
    shards = index.of_split("train")
    order = SampleOrder(tuple(shard.rows for shard in shards), 1, 4096, 4096, 1, seed=0, shuffle=False)
    table = next(ShardReader(config.dataset_dir, shards, order).batches(0))
    batch = collate(table, Layout.of(index.data_schema, index.table_rows), table.num_rows)
    names = [feature.name for feature in index.data_schema.sparse_features]
    return {name: int(batch.sparse[name].lengths().max()) for name in names}


def measure(settings: list[dict[str, Any]]) -> list[int]:
    """What each run adds, one after the other, to the peak that the imports of this process have made."""
    before = peak_bytes()
    return [preprocess_and_collate(RunConfig.model_validate(one)) - before for one in settings]


def test_a_million_ids_in_a_row_are_cut_and_counted_and_take_little_memory(tmp_path: Path) -> None:
    normal = write_log(tmp_path / "normal", is_endless=False)
    endless = write_log(tmp_path / "endless", is_endless=True)
    settings = [config.model_dump(mode="json", by_alias=True) for config in (normal, endless)]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        normal_bytes, endless_bytes = process.submit(measure, settings).result()
    print(f"peak of {normal_bytes / 1e6:.0f} MB without and {endless_bytes / 1e6:.0f} MB with the endless row")
    assert endless_bytes <= 2 * normal_bytes

    index = read_index(endless.dataset_dir)
    assert longest_bag(endless, index) == {"history": MAX_LENGTH, "seen": MAX_LENGTH, "tags": MAX_LENGTH}
    counted = [
        json.loads((config.dataset_dir / STATISTICS_NAME).read_bytes())["features"] for config in (normal, endless)
    ]
    cut = [{name: feature["cut_lists"]["train"] for name, feature in features.items()} for features in counted]
    num_rows = index.num_rows("train")
    assert cut == [{"history": num_rows, "seen": num_rows, "tags": tags} for tags in (0, 1)]


# --- ids that no table has

BAD_IDS: dict[str, Callable[[int], int]] = {
    "just outside": lambda num_rows: num_rows,
    "negative": lambda num_rows: -1,
    "largest": lambda num_rows: 2**63 - 1,
    "smallest": lambda num_rows: -(2**63),
}


def write_bad_id(config: RunConfig, feature: str, bad_id: int) -> None:
    """Replaces one id of one training row."""
    draw = new_draw()
    name = SPARSE_PREFIX + feature
    index = read_index(config.dataset_dir)
    shard, num_shards = 0, len(index.of_split("train"))
    chosen = draw.randrange(num_shards)

    def spoil(table: pa.Table, split: Split) -> pa.Table:
        nonlocal shard
        column = table[name].combine_chunks()
        is_list = pa.types.is_list(column.type)
        ids = (column.values if is_list else column).to_numpy().astype(np.int64)
        if split == "train" and shard == chosen:
            ids[draw.randrange(len(ids))] = bad_id
        shard += split == "train"
        wide = pa.ListArray.from_arrays(column.offsets, pa.array(ids)) if is_list else pa.array(ids)
        return with_column(table, name, wide)

    rewrite(config, spoil)


def assert_refused(config: RunConfig, feature: str, make_bad: Callable[[int], int]) -> None:
    index = read_index(config.dataset_dir)
    num_rows = index.table_rows[{f.name: f.table_name for f in index.data_schema.sparse_features}[feature]]
    write_bad_id(config, feature, make_bad(num_rows))
    with pytest.raises(ArtifactError) as caught:
        train(config)
    assert str(caught.value) == (
        f"feature '{feature}': id {make_bad(num_rows)} is outside its table of {num_rows} rows. Run `preprocess` again."
    )
    assert caught.value.exit_code == DATA_EXIT_CODE


@pytest.mark.parametrize("feature", ["user_id", "history"])
@pytest.mark.parametrize("make_bad", BAD_IDS.values(), ids=BAD_IDS)
def test_an_id_outside_its_table_stops_the_training_with_the_name_of_the_feature(
    make_config: Any, feature: str, make_bad: Callable[[int], int]
) -> None:
    assert_refused(make_config(), feature, make_bad)


@pytest.mark.skipif(not has_cuda(), reason="needs a GPU")
@pytest.mark.parametrize("make_bad", BAD_IDS.values(), ids=BAD_IDS)
def test_an_id_outside_its_table_stops_the_training_on_a_gpu(make_config: Any, make_bad: Callable[[int], int]) -> None:
    assert_refused(make_config(train={"device": "cuda"}), "history", make_bad)


def test_an_id_outside_its_table_ends_the_command_in_one_line(make_config: Any) -> None:
    config = make_config()
    write_bad_id(config, "history", 2**63 - 1)
    done = gatehouse("train", config)
    assert done.returncode == DATA_EXIT_CODE
    assert "feature 'history': id 9223372036854775807 is outside its table of " in one_line(done.stderr)
