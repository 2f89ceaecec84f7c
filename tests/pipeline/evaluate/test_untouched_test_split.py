"""Early stopping and the choice of the checkpoint never see the test split: they do the same where it is poisoned."""

from pathlib import Path
from typing import Any

import pytest
from changed_settings import MakeConfig
from poisoned_test_split import poison_test_split

from pipeline.errors import ArtifactError
from pipeline.evaluate.run import evaluate
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import read_index
from pipeline.train.checkpoints.checkpoint import best_checkpoint, list_checkpoints, read_manifest
from pipeline.train.run import train

# Stops early, after several validations within an epoch.
TRAINING = {
    "max_epochs": 3,
    "validate_every_steps": 10,
    "early_stopping": {"patience": 2},
    "dense_optimizer": {"learning_rate": 0.1},
    "keep_checkpoints": 50,
}


def losses_by_checkpoint(config: RunConfig) -> dict[str, Any]:
    return {path.name: read_manifest(path).validation_losses for path in list_checkpoints(config.checkpoints_dir)}


def test_training_and_selection_do_the_same_where_the_test_split_is_poisoned(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean, poisoned = make_config("clean", train=TRAINING), make_config("poisoned", train=TRAINING)
    expected = train(clean)
    opened = poison_test_split(poisoned, monkeypatch)
    best = train(poisoned)
    assert opened == []
    assert best.name == expected.name
    losses = losses_by_checkpoint(poisoned)
    assert losses == losses_by_checkpoint(clean)
    last = read_manifest(list_checkpoints(poisoned.checkpoints_dir)[-1])
    index = read_index(poisoned.dataset_dir)
    assert last.step < 3 * -(-index.num_rows("train") // 256), "it stopped early"
    assert best.name != list_checkpoints(poisoned.checkpoints_dir)[-1].name, "an earlier one was chosen"
    assert best_checkpoint(poisoned.checkpoints_dir) == best
    # The poison works: who reads the test split meets it.
    with pytest.raises(ArtifactError, match=r"shard .*test-00000\.arrow has 0 bytes"):
        evaluate(poisoned)


def test_an_evaluation_of_the_validation_split_opens_no_test_shard(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config("run", evaluate={"split": "validation", "importance_rows": 0})
    train(config)
    opened = poison_test_split(config, monkeypatch)
    report = evaluate(config)
    assert opened == []
    assert report["split"] == "validation"
    assert report["rows"] == read_index(config.dataset_dir).num_rows("validation")


def test_an_evaluation_changes_nothing_that_a_choice_is_made_from(make_config: MakeConfig) -> None:
    config = make_config("run", evaluate={"importance_rows": 0})
    best = train(config)

    def state() -> dict[Path, bytes]:
        folders = (config.checkpoints_dir, config.dataset_dir)
        return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}

    before = state()
    evaluate(config)
    assert state() == before
    assert best_checkpoint(config.checkpoints_dir) == best
