"""The configurations of public data sets on samples of their files: every encoded value is what the files say."""

import json
import math
import random
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from public_samples import SAMPLES, Row
from test_mistakes import gatehouse

from pipeline.executor import InProcessExecutor
from pipeline.preprocess.run import preprocess
from pipeline.run_config import RunConfig, load_run_config
from pipeline.shards.manifest import SPLITS

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
UNSEEN = object()


@pytest.fixture(params=SAMPLES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def prepared(name: str, tmp_path: Path) -> tuple[RunConfig, dict[str, Any], list[Row]]:
    """The preprocessed sample of a data set: its configuration, also as it is written, and what the files say."""
    folder = tmp_path / "in"
    folder.mkdir()
    SAMPLES[name].write(folder, random.Random(7))
    overrides = (f"inputs={folder}", f"workspace={tmp_path / 'work'}", "preprocess.rows_per_partition=64")
    config = load_run_config(CONFIGS / f"{name}.yaml", (*overrides, *SAMPLES[name].overrides))
    preprocess(config, InProcessExecutor())
    return config, yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["schema"], SAMPLES[name].parse(folder)


def read_shards(config: RunConfig, split: str) -> dict[str, list[Any]]:
    tables = []
    for path in sorted(config.dataset_dir.glob(f"{split}-*.arrow")):
        with pa.ipc.open_file(path) as reader:
            tables.append(reader.read_all())
    columns: dict[str, list[Any]] = pa.concat_tables(tables).to_pydict()
    return columns


def values_of(feature: dict[str, Any], row: Row) -> list[Any]:
    """The values of a row of a feature that is looked up, as texts, None for null."""
    value: Any = row.get(feature.get("column", feature["name"]))
    if feature["kind"] == "time_part":
        moment = datetime.fromtimestamp(int(value), UTC)
        return [moment.hour if feature["part"] == "hour" else moment.weekday()]
    if feature["kind"] == "categorical":
        return [None if value is None else str(value)]
    if isinstance(value, str):
        value = value.split(feature["delimiter"])
    return [str(one) for one in value or []][: feature.get("max_length", 64)]


def weights_of(feature: dict[str, Any], row: Row) -> list[float]:
    return [float(np.float32(weight)) for weight in row.get(feature["weights"]) or []]


def known_values(features: list[dict[str, Any]], table: str, training: list[Row]) -> set[str]:
    """The values that the training rows have often enough."""
    sharing = [feature for feature in features if feature.get("table", feature["name"]) == table]
    counts = Counter(value for feature in sharing for row in training for value in values_of(feature, row))
    min_count = next(feature for feature in sharing if feature["name"] == table).get("min_count", 1)
    return {value for value, count in counts.items() if value is not None and count >= min_count}


def inputs_of(feature: dict[str, Any], row: Row) -> float:
    """A number after clip and log1p, NaN for null."""
    value = row.get(feature.get("column", feature["name"]))
    if value is None:
        return math.nan
    low, high = feature.get("clip", [None, None])
    number = float(value)
    number = number if low is None else max(number, low)
    number = number if high is None else min(number, high)
    return math.log1p(number) if feature.get("log1p") else number


def test_every_id_stands_for_the_value_in_the_files(prepared: tuple[RunConfig, dict[str, Any], list[Row]]) -> None:
    config, schema, rows = prepared
    features = [feature for feature in schema["features"] if feature["kind"] != "numeric"]
    for feature in features:
        table = feature.get("table", feature["name"])
        if feature["kind"] == "time_part":
            texts: list[Any] = list(range(24))
            known: set[Any] = set(texts)
        else:
            with pa.ipc.open_file(config.dataset_dir / "vocabularies" / f"{table}.arrow") as reader:
                texts = reader.read_all()["value"].to_pylist()
            known = known_values(features, table, [row for row in rows if row["split"] == 0])
            assert set(texts) == known
        meanings = [UNSEEN, None, *texts]
        for place, split in enumerate(SPLITS):
            shards, own = read_shards(config, split), [row for row in rows if row["split"] == place]
            ids = [[one] if isinstance(one, int) else one for one in shards[f"sparse_{feature['name']}"]]
            expected = [
                [one if one is None or one in known else UNSEEN for one in values_of(feature, row)] for row in own
            ]
            assert [[meanings[one] for one in lists] for lists in ids] == expected, feature["name"]
            if "weights" in feature:
                assert shards[f"weights_{feature['name']}"] == [weights_of(feature, row) for row in own]


def test_every_input_is_the_standardised_number_in_the_files(
    prepared: tuple[RunConfig, dict[str, Any], list[Row]],
) -> None:
    config, schema, rows = prepared
    columns: list[np.ndarray] = []
    splits = np.array([row["split"] for row in rows])
    for feature in schema["features"]:
        if feature["kind"] != "numeric":
            continue
        numbers = np.array([inputs_of(feature, row) for row in rows])
        training = numbers[(splits == 0) & ~np.isnan(numbers)]
        columns.append(np.nan_to_num((numbers - training.mean()) / training.std(), nan=0.0))
        if feature.get("null_indicator"):
            columns.append(np.isnan(numbers).astype(float))
    for place, split in enumerate(SPLITS):
        shards = read_shards(config, split)
        assert ("dense" in shards) == bool(columns)
        if columns:
            assert np.allclose(np.array(shards["dense"]), np.stack(columns, axis=1)[splits == place], atol=1e-5)


def test_every_label_is_that_in_the_files(prepared: tuple[RunConfig, dict[str, Any], list[Row]]) -> None:
    config, schema, rows = prepared
    for place, split in enumerate(SPLITS):
        labels = []
        for row in rows:
            if row["split"] == place:
                own = [(float(row[task["label"]]), task.get("positive")) for task in schema["tasks"]]
                labels.append([label if positive is None else float(label == positive) for label, positive in own])
        assert read_shards(config, split)["labels"] == labels
        assert len(labels) > 5


@pytest.mark.parametrize(("name", "outputs"), [("movielens", ["favourite", "rating"]), ("criteo", ["click"]),
                         ("ali_ccp", ["click", "purchase", "joint_purchase"])])  # fmt: skip
def test_the_main_job_takes_a_sample_to_a_report(
    name: str, outputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    SAMPLES[name].write(tmp_path, random.Random(7))
    settings = {
        "inputs": tmp_path, "workspace": tmp_path / "work", "train.device": "cpu", "train.max_epochs": 1,
        "train.global_batch_size": 64, "model.front_end.embedding_dim": 4, "model.tower_widths": [4],
    }  # fmt: skip
    arguments = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    code, error = gatehouse(monkeypatch, capsys, "run", "--config", str(CONFIGS / f"{name}.yaml"), *arguments)
    assert (code, error) == (0, "")
    report = json.loads((tmp_path / "work" / "report" / "report.json").read_text())
    assert [task["name"] for task in report["tasks"]] == outputs
