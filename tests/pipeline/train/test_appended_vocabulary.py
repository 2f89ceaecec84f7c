"""A log that goes on after its model was trained: old values keep their rows, newer ones are unseen or appended.

A model is trained on days 1 to 3, and days 4 and 5 extend its dataset. `as_served` is a dataset of days 4 and 5 as that
model meets them in serving: encoded with its own vocabularies.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import torch
from changed_settings import merged
from gloo_ranks import train_on_ranks

from pipeline.assemble import build_model
from pipeline.config import build
from pipeline.errors import ArtifactError
from pipeline.evaluate.run import evaluate
from pipeline.executor import InProcessExecutor
from pipeline.feature_kinds import NUM_RESERVED_ROWS, UNSEEN_ROW
from pipeline.files import sha256_of
from pipeline.preprocess import fitting
from pipeline.preprocess.features.distinct import write_vocabulary
from pipeline.preprocess.features.vocabulary import Vocabulary
from pipeline.preprocess.profiles.statistics import read_statistics
from pipeline.preprocess.run import preprocess
from pipeline.run_config import RunConfig
from pipeline.score.run import describe_ranking, score
from pipeline.shards.manifest import SPARSE_PREFIX, LabelStatistics, Split, read_index
from pipeline.shards.vocabularies import digest_vocabulary, vocabulary_path
from pipeline.train.checkpoints.checkpoint import VocabularyEntry, list_checkpoints, read_manifest
from pipeline.train.checkpoints.lineage import check_lineage
from pipeline.train.checkpoints.reader import load_tensors, saved_sizes
from pipeline.train.checkpoints.warm_start import WARM_START_NAME, describe_warm_start
from pipeline.train.device import rank_device
from pipeline.train.predictor import Predictor
from pipeline.train.rank import run_fingerprint
from pipeline.train.run import one_rank_group, train
from pipeline.train.tables.initial_weights import fill_tables
from pipeline.train.trainer import Trainer

MAX_TAGS = 25
# Rows that no value has yet, in one of the tables that grow.
SPARE_ROWS = {"user_id": 400}
WEIGHT = "model.model.front_end.embeddings.embedding_bags.{0}.weight"
STATE = "optimizer.model.front_end.embeddings.embedding_bags.{0}.weight.{0}.momentum1"


class Days(NamedTuple):
    first: RunConfig
    champion: Path
    grown: RunConfig
    as_served: RunConfig


@pytest.fixture(scope="module")
def days(demo_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Days:
    folder = tmp_path_factory.mktemp("days")
    features = [
        feature | ({"max_size": MAX_TAGS} if feature["name"] == "tags" else {})
        for feature in demo_settings["schema"]["features"]
    ]
    features.append({"name": "age_group", "kind": "bucketed", "column": "age", "num_buckets": 6})
    changes = {
        "schema": {"features": features},
        "model": {"front_end": {"num_embeddings": SPARE_ROWS}},
        "train": {"sharding": {"default": "row_wise"}},
    }

    def make(name: str, log: str, last_day: int, extend: Path | None = None) -> RunConfig:
        split = {"validation_from": f"2025-01-{last_day:02d}", "test_from": f"2025-01-{last_day:02d}T12:00:00"}
        section = {"log": {"path": log}, "split": split, "extend": str(extend) if extend else None}
        own = {**changes, "workspace": str(folder / name), "preprocess": section}
        config = build(RunConfig, merged(demo_settings, own), "the tests")
        preprocess(config, InProcessExecutor())
        return config

    first = make("first", "log/day-0[123].parquet", 8)
    grown = make("grown", "log/day-0[45].parquet", 10, first.dataset_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "write_vocabulary", write_no_new_value)
        as_served = make("as served", "log/day-0[45].parquet", 10, first.dataset_dir)
    return Days(first, train(first), grown, as_served)


def write_no_new_value(staging: Path, merged_ranges: Any, max_size: int | None, *others: Any) -> int:
    return write_vocabulary(staging, merged_ranges, 0, *others)


def num_values(config: RunConfig) -> dict[str, int]:
    """The size of each vocabulary."""
    tables = config.data_schema.vocabulary_owners()
    return {table: digest_vocabulary(config.dataset_dir, table).num_values for table in tables}


def read_shards(config: RunConfig, split: Split) -> pa.Table:
    shards = read_index(config.dataset_dir).of_split(split)
    return pa.concat_tables(pa.ipc.open_file(config.dataset_dir / shard.path).read_all() for shard in shards)


def ids_of(config: RunConfig, feature: str) -> np.ndarray:
    """The ids of a feature in the test split."""
    column = read_shards(config, "test")[SPARSE_PREFIX + feature].combine_chunks()
    return np.asarray(column.flatten() if pa.types.is_list(column.type) else column)


def tensors_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    tensors = {name: torch.zeros(size) for name, size in saved_sizes(checkpoint).items()}
    load_tensors(checkpoint, tensors, is_distributed=False)
    return tensors


def warm_run(days: Days, workspace: Path, **train_changes: Any) -> RunConfig:
    """A run on the grown dataset that starts from the champion."""
    workspace.mkdir()
    (workspace / "dataset").symlink_to(days.grown.dataset_dir)
    changes = {"workspace": str(workspace), "train": {"warm_start": str(days.champion), **train_changes}}
    return build(RunConfig, merged(days.grown.model_dump(mode="json", by_alias=True), changes), "the tests")


@pytest.fixture(scope="module")
def warm(days: Days, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path]:
    """A warm-started run and its checkpoint before the first step."""
    config = warm_run(days, tmp_path_factory.mktemp("warm") / "run")
    index = read_index(config.dataset_dir)
    with one_rank_group(config):
        trainer = Trainer(config, index, run_fingerprint(config, index), rank_device(config.train))
        trainer.validation_losses = None
        trainer._save()
        trainer.writer.wait()
        trainer.telemetry.close()
    return config, list_checkpoints(config.checkpoints_dir)[-1]


# --- the dataset


def test_old_values_keep_their_rows_and_their_part_of_the_vocabulary_its_sha256(days: Days) -> None:
    for table, num_old in num_values(days.first).items():
        before, after = (Vocabulary.load(vocabulary_path(c.dataset_dir, table)) for c in (days.first, days.grown))
        assert digest_vocabulary(days.grown.dataset_dir, table, num_old).sha256 == before.fingerprint()
        old = pa.chunked_array([batch.column("value") for batch in before.batches]).combine_chunks()
        assert after.rows_of(old).tolist() == list(range(NUM_RESERVED_ROWS, NUM_RESERVED_ROWS + num_old))
    assert num_values(days.first)["user_id"] < num_values(days.grown)["user_id"]
    assert num_values(days.first)["item_id"] < num_values(days.grown)["item_id"]
    assert read_index(days.grown.dataset_dir).label_statistics == read_index(days.first.dataset_dir).label_statistics


def test_the_statistics_tell_what_is_new_unseen_refused_and_how_full_a_table_is(days: Days) -> None:
    statistics = read_statistics(days.grown.dataset_dir)
    before, after = num_values(days.first), num_values(days.grown)
    for table, told in statistics["tables"].items():
        if table in after:
            assert (told["earlier_values"], told["kept_values"]) == (before[table], after[table])
            assert told["rows"] == NUM_RESERVED_ROWS + after[table]
    assert statistics["tables"]["tags"]["kept_values"] == MAX_TAGS
    refused = {table: told["refused_values"] for table, told in statistics["tables"].items() if table in after}
    assert {table for table, count in refused.items() if count} == {"tags"}
    unseen = {name: told["unseen_fraction"]["test"] for name, told in statistics["features"].items() if "table" in told}
    assert unseen == {name: (ids_of(days.grown, name) == UNSEEN_ROW).mean() for name in unseen}
    assert 0 < unseen["user_id"] < (ids_of(days.as_served, "user_id") == UNSEEN_ROW).mean()


# --- the earlier model on newer rows


def test_an_earlier_model_is_measured_on_a_grown_dataset_as_if_it_were_served(days: Days) -> None:
    found, expected = (evaluate(config, checkpoint=days.champion) for config in (days.grown, days.as_served))
    assert found["tasks"] == expected["tasks"]
    num_old = num_values(days.first)
    counts = {}
    for name, table in (("user_id", "user_id"), ("item_id", "item_id"), ("history", "item_id")):
        ids = ids_of(days.grown, name)
        counts[name] = {"values": len(ids), "newer": int((ids >= NUM_RESERVED_ROWS + num_old[table]).sum())}
    assert all(count["newer"] for count in counts.values())
    assert found["newer_values"] == counts
    assert expected["newer_values"] == {}
    page = (days.grown.report_dir / "report.html").read_text()
    assert f"user_id: {counts['user_id']['newer']:,} of {counts['user_id']['values']:,} values" in page


def test_an_earlier_model_predicts_newer_rows_as_in_serving_bit_for_bit(days: Days) -> None:
    found, expected = (
        Predictor(config, read_index(config.dataset_dir), days.champion, 1_000).predict(read_shards(config, "test"))
        for config in (days.grown, days.as_served)
    )
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_an_earlier_model_ranks_as_if_it_were_served(days: Days) -> None:
    found, expected = (score(config, checkpoint=days.champion) for config in (days.grown, days.as_served))
    assert sha256_of(found / "part-00000.parquet") == sha256_of(expected / "part-00000.parquet")
    assert any(line.startswith("item_id: ") for line in describe_ranking(found))
    assert describe_ranking(expected) == []


def test_only_a_dataset_that_begins_with_the_vocabularies_and_has_the_numbers_is_taken(days: Days) -> None:
    champion = read_manifest(days.champion)
    index = read_index(days.grown.dataset_dir)
    other = VocabularyEntry(num_values=3, sha256="0" * 64)
    changed = champion.model_copy(update={"vocabularies": {**champion.vocabularies, "category": other}})
    check = partial(
        check_lineage,
        schema=days.grown.data_schema,
        checkpoint=days.champion,
        dataset_dir=days.grown.dataset_dir,
    )
    with pytest.raises(ArtifactError, match=r"the vocabulary of table 'category' in .* does not begin with the one"):
        check(changed, index=index)
    labels = {**index.label_statistics, "watch": LabelStatistics(rows=1, mean=1.0, deviation=1.0)}
    for manifest, dataset in (
        (champion.model_copy(update={"numbers": "0" * 64}), index),
        (champion, index.model_copy(update={"label_statistics": labels})),
    ):
        with pytest.raises(ArtifactError, match=r"other normalizations, boundaries or scales of labels than .*grown"):
            check(manifest, index=dataset)


def test_a_later_model_does_not_go_back_to_the_dataset_before(days: Days, warm: tuple[RunConfig, Path]) -> None:
    with pytest.raises(ArtifactError, match="the vocabulary of table 'item_id'"):
        evaluate(days.first, checkpoint=warm[1])


# --- the later model


def test_a_warm_start_scores_old_rows_as_before_bit_for_bit(days: Days, warm: tuple[RunConfig, Path]) -> None:
    old = read_shards(days.first, "train")
    before, after = (
        Predictor(config, read_index(config.dataset_dir), checkpoint, 1_000).predict(old)
        for config, checkpoint in ((days.first, days.champion), warm)
    )
    assert all(np.array_equal(after[name], before[name]) for name in before)
    report = json.loads((warm[0].workspace_dir / WARM_START_NAME).read_text())
    assert report["new"] == report["left_out"] == report["changed_tables"] == []


def test_a_warm_start_begins_new_rows_anew_and_keeps_the_state_of_old_ones(
    days: Days, warm: tuple[RunConfig, Path]
) -> None:
    old, new = tensors_of(days.champion), tensors_of(warm[1])
    initial = build_model(read_index(warm[0].dataset_dir), warm[0].model, 0, torch.device("cpu"))
    fill_tables(initial, warm[0].seed)
    for table, num_old in num_values(days.first).items():
        rows = NUM_RESERVED_ROWS + num_old
        weight, state = WEIGHT.format(table), STATE.format(table)
        assert torch.equal(new[weight][:rows], old[weight][:rows])
        assert torch.equal(new[state][:rows], old[state][:rows])
        assert torch.equal(new[weight][rows:], initial.state_dict()[weight.removeprefix("model.model.")][rows:])
        assert not new[state][rows:].any()
        assert new[state][NUM_RESERVED_ROWS:rows].all()


@pytest.mark.slow
def test_a_grown_table_is_trained_on_any_rank_and_old_rows_that_no_batch_has_stay(days: Days, tmp_path: Path) -> None:
    one_step = warm_run(days, tmp_path / "one step", global_batch_size=8)
    train_on_ranks(one_step, 2, tmp_path / "store", stop_after=1)
    num_old, num_new = (num_values(config)["item_id"] for config in (days.first, days.grown))
    before, now = NUM_RESERVED_ROWS + num_old, NUM_RESERVED_ROWS + num_new
    assert f"table item_id grown from {before:,} to {now:,} rows" in describe_warm_start(one_step.workspace_dir)
    old, stepped = tensors_of(days.champion), tensors_of(list_checkpoints(one_step.checkpoints_dir)[-1])
    weight, state = (stepped[name.format("item_id")] for name in (WEIGHT, STATE))
    # Of an old row either the step saw it, and its state grew, or nothing of it changed.
    is_seen = state[:before] > old[STATE.format("item_id")]
    assert 0.2 < is_seen.float().mean() < 0.8
    assert torch.equal(state[:before][~is_seen], old[STATE.format("item_id")][~is_seen])
    assert torch.equal(weight[:before][~is_seen], old[WEIGHT.format("item_id")][~is_seen])

    trained = tensors_of(train(warm_run(days, tmp_path / "trained")))
    assert trained[STATE.format("item_id")][before:].all()
    assert trained[STATE.format("user_id")][
        NUM_RESERVED_ROWS : NUM_RESERVED_ROWS + num_values(days.grown)["user_id"]
    ].all()
