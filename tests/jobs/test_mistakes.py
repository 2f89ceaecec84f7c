"""The mistakes a user makes: each is one line that says what to change, and the documented exit code."""

import gzip
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from jobs.__main__ import main
from pipeline.config import dump
from pipeline.run_config import RunConfig
from pipeline.train.run import train

CONFIG_EXIT_CODE = 2
DATA_EXIT_CODE = 3
TWICE = "{name: mood, kind: multiclass, label: watch_seconds, classes: {low: 0, none: '0.0'}}"
MOOD = "{name: mood, kind: multiclass, label: mood, classes: {warm: 1, cold: 0}}"


def gatehouse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code of a command and what it printed on standard error."""
    monkeypatch.setattr(sys, "argv", ["gatehouse", *arguments])
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, capsys.readouterr().err


def one_line(error: str) -> str:
    """The one line of an error message: no traceback, nothing else."""
    lines = error.strip().splitlines()
    assert len(lines) == 1, error
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture
def config_file(demo_settings: dict[str, Any], tmp_path: Path) -> Path:
    """The small log's configuration as a file, in a workspace that holds nothing yet."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**demo_settings, "workspace": str(tmp_path / "run")}))
    return path


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ("train.max_epoch=3", 2, "unknown key train.max_epoch. Did you mean 'max_epochs'"),
        ("trian.max_epochs=3", 2, "unknown key trian. Did you mean 'train'"),
        ("train.max_epochs=many", 2, "train.max_epochs is 'many'"),
        ("train.num_lanes=3", 2, "global_batch_size 256 is not a multiple of num_lanes 3"),
        ("seed=-1", 2, "seed is -1: should be greater than or equal to 0"),
        ("model.body.kind=mmoee", 2, "model.body.kind is 'mmoee', which is not in the catalogue ("),
        ("model.body.num_exprts=3", 2, "unknown key num_exprts. Did you mean 'num_experts'"),
        ("schema.tasks.1.space=clik", 2, "space 'clik'"),
        ("schema.tasks.3.kind=watchtime", 2, "'multiclass', 'regression' or 'watch_time'"),
        ("schema.tasks.3.kind=multiclass", 2, "schema.tasks.3: a multiclass task needs classes"),
        ("schema.tasks.3.classes={a: 0, b: 1}", 2, "schema.tasks.3: classes apply to multiclass tasks only"),
        ("schema.tasks.3.name=joint_like", 2, "tasks 'like' and 'joint_like' would both give an output 'joint_like'"),
        (f"schema.tasks.3={TWICE}", 2, "task 'mood': classes 'low' and 'none' have the same label value '0'"),
        ("schema.weight=click", 2, "weight 'click' is the label of task 'click'"),
        ("schema.weight=watch_second", 3, "column 'watch_second' is not in"),
        ("score.fusion=click * purchas", 2, "names 'purchas', which is not an output of the model"),
        ("schema.features.3.column=agee", 3, "column 'agee'"),
        ("schema.tasks.0.label=clicked", 3, "column 'clicked'"),
        ("preprocess.log.path=logs", 3, "logs"),
        ("inputs=nowhere", 3, "the input folder nowhere is not there"),
    ],
)
def test_a_wrong_value_is_named_before_anything_is_written(
    config_file: Path, monkeypatch: Any, capsys: Any, change: str, code: int, said: str
) -> None:
    found, error = gatehouse(monkeypatch, capsys, "run", "--config", str(config_file), "--set", change)
    assert found == code, error
    assert said in one_line(error)
    assert not (config_file.parent / "run" / "dataset" / "index.json").exists()


def test_a_missing_configuration_file_is_named(monkeypatch: Any, capsys: Any) -> None:
    code, error = gatehouse(monkeypatch, capsys, "run", "--config", "nowhere.yaml")
    assert code == CONFIG_EXIT_CODE
    assert "configuration file nowhere.yaml is not there" in one_line(error)


def _replace_log(config_file: Path, tmp_path: Path, table: pa.Table) -> None:
    settings = yaml.safe_load(config_file.read_text())
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for name in ("users.parquet", "items.parquet", "candidates.parquet", "truth"):
        (inputs / name).symlink_to(Path(settings["inputs"]) / name)
    (inputs / "log").mkdir()
    pq.write_table(table, inputs / "log" / "day.parquet")
    config_file.write_text(yaml.safe_dump({**settings, "inputs": str(inputs)}))


def _log_of(config_file: Path) -> pa.Table:
    return pq.read_table(Path(yaml.safe_load(config_file.read_text())["inputs"]) / "log")


def test_an_empty_log_is_named(config_file: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    _replace_log(config_file, tmp_path, _log_of(config_file).slice(0, 0))
    code, error = gatehouse(monkeypatch, capsys, "run", "--config", str(config_file))
    assert code == DATA_EXIT_CODE
    assert "holds no row" in one_line(error)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (2, "task 'click': label 2 in"),
        (-1, "task 'click': label -1 in"),
        (None, "task 'click'"),
    ],
)
def test_a_bad_label_is_named_with_its_task(
    config_file: Path, tmp_path: Path, monkeypatch: Any, capsys: Any, label: int | None, said: str
) -> None:
    log = _log_of(config_file)
    place = log.column_names.index("click")
    clicks = log["click"].to_pylist()
    clicks = [None] * len(clicks) if label is None else [*clicks[:100], label, *clicks[101:]]
    _replace_log(config_file, tmp_path, log.set_column(place, "click", pa.array(clicks, pa.int8())))
    code, error = gatehouse(monkeypatch, capsys, "run", "--config", str(config_file))
    assert code == DATA_EXIT_CODE
    assert said in one_line(error)


@pytest.mark.parametrize(
    ("changes", "value", "said"),
    [
        ((f"schema.tasks.3={MOOD}",), 3, "task 'mood': label 3 in"),
        ((f"schema.tasks.3={MOOD}",), -1, "(warm: 1, cold: 0) or null"),
        (("schema.tasks.3.kind=watch_time", "schema.tasks.3.label=mood"), -1, "task 'watch': label -1 in"),
        (("schema.weight=mood",), -1, "weight -1 in"),
        (("schema.weight=mood",), None, "give 1 where a row has no weight of its own"),
    ],
)
def test_a_bad_value_of_a_kind_of_task_or_a_weight_is_named_with_its_row(
    config_file: Path,
    tmp_path: Path,
    monkeypatch: Any,
    capsys: Any,
    changes: tuple[str, ...],
    value: int | None,
    said: str,
) -> None:
    log = _log_of(config_file)
    moods = [1] * 100 + [value] + [1] * (len(log) - 101)
    _replace_log(config_file, tmp_path, log.append_column("mood", pa.array(moods, pa.int8())))
    overrides = [part for change in changes for part in ("--set", change)]
    code, error = gatehouse(monkeypatch, capsys, "preprocess", "--config", str(config_file), *overrides)
    assert code == DATA_EXIT_CODE
    assert said in one_line(error)
    assert "row 101" in error


def test_a_file_that_is_not_what_its_name_says_is_named(
    config_file: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    _replace_log(config_file, tmp_path, _log_of(config_file))
    (tmp_path / "inputs" / "log" / "day.parquet").write_bytes(gzip.compress(b"not parquet"))
    code, error = gatehouse(monkeypatch, capsys, "run", "--config", str(config_file))
    assert code == DATA_EXIT_CODE
    assert "day.parquet cannot be read" in one_line(error)


def test_a_table_too_small_for_its_ids_is_named(make_config: Any, monkeypatch: Any, capsys: Any) -> None:
    path = written(make_config())
    change = "model.front_end.num_embeddings={country: 3}"
    code, error = gatehouse(monkeypatch, capsys, "train", "--config", path, "--set", change)
    assert code == CONFIG_EXIT_CODE
    assert "model.front_end.num_embeddings.country is 3, and the dataset has ids for" in one_line(error)


def test_a_corrupt_shard_is_named(make_config: Any, monkeypatch: Any, capsys: Any) -> None:
    config = make_config()
    shard = sorted(config.dataset_dir.glob("train-*.arrow"))[-1]
    shard.write_bytes(shard.read_bytes()[:-10])
    code, error = gatehouse(monkeypatch, capsys, "train", "--config", written(config))
    assert code == DATA_EXIT_CODE
    assert f"shard {shard} has" in one_line(error)


def test_a_schema_that_no_longer_fits_the_checkpoint_is_shown(make_config: Any, monkeypatch: Any, capsys: Any) -> None:
    config = make_config()
    train(config)
    path = written(config)
    for verb in ("evaluate", "score"):
        change = "schema.features.0.min_count=9"
        code, error = gatehouse(monkeypatch, capsys, verb, "--config", path, "--set", change)
        assert code == DATA_EXIT_CODE
        assert "feature 'user_id': min_count was 5, is 9" in one_line(error)


def test_a_run_in_the_way_is_kept(make_config: Any, monkeypatch: Any, capsys: Any) -> None:
    config = make_config()
    train(config)
    for verb in ("train", "run"):
        code, error = gatehouse(monkeypatch, capsys, verb, "--config", written(config))
        assert code == CONFIG_EXIT_CODE
        assert "already holds a run" in one_line(error)
        assert "--overwrite" in error


def test_debug_shows_the_traceback_too(monkeypatch: Any, capsys: Any) -> None:
    _, error = gatehouse(monkeypatch, capsys, "run", "--config", "nowhere.yaml", "--debug")
    assert "Traceback" in error


def written(config: RunConfig) -> str:
    """The configuration as a file outside its workspace's own."""
    folder = config.workspace_dir.parent / f"{config.workspace_dir.name}-configuration"
    dump(config, folder)
    return str(folder / "config.resolved.yaml")
