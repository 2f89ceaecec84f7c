"""Starting from an earlier run: what fits is loaded, the rest starts anew."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import ArtifactError, UsageError
from pipeline.preprocess.features.vocabulary import Vocabulary
from pipeline.run_config import RunConfig
from pipeline.shards.vocabularies import vocabulary_path
from pipeline.train.checkpoints.warm_start import WARM_START_NAME, describe_warm_start
from pipeline.train.run import train

STATE = "optimizer.model.front_end.embeddings.embedding_bags.{0}.weight.{0}.momentum1"
WEIGHT = "model.model.front_end.embeddings.embedding_bags.{0}.weight"
SETTINGS = {"sharding": {"default": "row_wise"}}


def reverse_vocabulary(config: RunConfig, table: str) -> None:
    path = vocabulary_path(config.dataset_dir, table)
    batches = (batch.take(pa.array(range(len(batch))[::-1])) for batch in Vocabulary.load(path).batches)
    Vocabulary(tuple(batches)).save(path)


def report_of(config: RunConfig) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((config.workspace_dir / WARM_START_NAME).read_text())
    return report


@pytest.fixture
def champion(make_config: Any) -> tuple[RunConfig, Path]:
    config = make_config("champion", train=SETTINGS)
    return config, train(config)


def test_a_table_whose_rows_mean_other_values_starts_anew(champion: tuple[RunConfig, Path], make_config: Any) -> None:
    config = make_config("next", train={**SETTINGS, "warm_start": str(champion[1])})
    reverse_vocabulary(config, "user_id")
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
