"""A dataset that extends an earlier one: vocabularies grow, earlier rows stay what they are."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from killed_runs import content_of
from small_logs import fails, log_columns, make_config, prepare, run, schema_section, statistics, vocabulary

from pipeline.errors import ArtifactError, ConfigError
from pipeline.preprocess.transform import FittedTransform
from pipeline.shards.vocabularies import digest_vocabulary


def next_days() -> dict[str, list[Any]]:
    """The small log an hour later, with items and cities that the first had not."""
    columns = log_columns()
    columns["minute"] = [minute + 60 for minute in columns["minute"]]
    columns["item"] = [7 if item == 1 else item for item in columns["item"]]
    columns["city"] = [city and city.replace("york", "oslo") for city in columns["city"]]
    columns["price"] = [price and price * 3 for price in columns["price"]]
    return columns


LATER = {"kind": "time", "column": "minute", "validation_from": 74, "test_from": 77}


def test_a_later_dataset_adds_rows_and_changes_no_earlier_one(tmp_path: Path) -> None:
    first = prepare(tmp_path / "first")
    before = run(first)
    second = prepare(tmp_path / "second", next_days(), split=LATER, extend=str(first.dataset_dir))
    after = run(second)
    assert list(vocabulary(second, "item"))[:3] == list(vocabulary(first, "item"))
    assert list(vocabulary(second, "item"))[3:] == ["7"]
    assert vocabulary(second, "item").keys() == {"0", "1", "2", "7"}
    assert after.table_rows == before.table_rows | {"item": 6, "city": 6}
    told = statistics(second)["tables"]["item"]
    assert (told["earlier_values"], told["kept_values"], told["refused_values"]) == (3, 4, 0)
    assert digest_vocabulary(second.dataset_dir, "item", 3) == digest_vocabulary(first.dataset_dir, "item")
    # Rows of the first log are encoded as they were, bit for bit.
    transforms = [FittedTransform.load(config.dataset_dir, config.data_schema) for config in (first, second)]
    old = pa.table(log_columns())
    was, now = (transform.encode_features(old, "log") for transform in transforms)
    assert now.equals(was)


def test_a_full_table_refuses_new_values_and_says_how_many(tmp_path: Path) -> None:
    schema = schema_section()
    schema["features"][0]["max_size"] = 3
    first = prepare(tmp_path / "first", schema=schema)
    run(first)
    second = prepare(tmp_path / "second", next_days(), schema=schema, split=LATER, extend=str(first.dataset_dir))
    run(second)
    assert vocabulary(second, "item") == vocabulary(first, "item")
    assert statistics(second)["tables"]["item"]["refused_values"] == 1


def test_a_dataset_does_not_extend_itself_and_is_kept(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    run(config)
    before = content_of(config.dataset_dir)
    with pytest.raises(ConfigError, match="the dataset that this run writes"):
        run(make_config(tmp_path, extend=str(config.dataset_dir)), overwrite=True)
    assert content_of(config.dataset_dir) == before


def test_only_a_complete_dataset_of_the_same_schema_is_extended(tmp_path: Path) -> None:
    fails(tmp_path, ArtifactError, "holds no complete dataset", extend=str(tmp_path / "nowhere"))
    first = prepare(tmp_path / "first")
    run(first)
    schema = schema_section()
    schema["features"][0]["min_count"] = 3
    fails(tmp_path / "x", ArtifactError, "min_count was 2, is 3", schema=schema, extend=str(first.dataset_dir))
