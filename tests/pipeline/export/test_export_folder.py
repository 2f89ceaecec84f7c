"""The folder of an export: written once, whole or not at all, checked when it is read, with its model's values."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from changed_settings import merged
from trained_export import Trained, export_anew, other, train_on

from jobs.__main__ import main
from pipeline.config import build
from pipeline.errors import ArtifactError
from pipeline.executor import InProcessExecutor
from pipeline.export import run as export_run
from pipeline.export.manifest import MANIFEST_NAME, PROGRAM_NAME, TENSORS_NAME, read_manifest
from pipeline.export.run import export
from pipeline.export.serving import Serving
from pipeline.feature_kinds import UNSEEN_ROW
from pipeline.preprocess.run import preprocess
from pipeline.run_config import RunConfig
from pipeline.shards.vocabularies import digest_vocabulary

USAGE_EXIT_CODE = 2


@pytest.fixture(scope="module")
def trained(demo_settings: dict[str, Any], dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_on(dataset, demo_settings, tmp_path_factory.mktemp("exported") / "run")


@pytest.fixture(scope="module")
def exported(trained: Trained) -> Path:
    return export_anew(trained)


# --- the folder


def run_verb(monkeypatch: pytest.MonkeyPatch, capsys: Any, config: RunConfig, *arguments: str) -> tuple[int, str, str]:
    """The exit code of `gatehouse export` and what it printed."""
    path = config.workspace_dir / "run.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", by_alias=True)))
    monkeypatch.setattr(sys, "argv", ["gatehouse", "export", "--config", str(path), *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    printed = capsys.readouterr()
    return int(stop.value.code or 0), printed.out, printed.err


def test_the_verb_writes_an_export_once_and_replaces_another_one_only_when_told(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    config = other(trained, tmp_path / "run")
    folder = config.export_dir
    code, out, err = run_verb(monkeypatch, capsys, config)
    version = read_manifest(folder).version
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"export {version}: {folder}"
    before = (folder / MANIFEST_NAME).stat().st_mtime_ns

    code, out, _ = run_verb(monkeypatch, capsys, config)
    assert code == 0
    assert out.splitlines()[-1] == f"export {version}: {folder} (is up to date)"
    assert (folder / MANIFEST_NAME).stat().st_mtime_ns == before

    code, _, err = run_verb(monkeypatch, capsys, config, "--set", "export.tables=int8")
    assert code == USAGE_EXIT_CODE
    assert err.startswith(
        f"error: {folder} holds an export of another checkpoint, with other settings, or a damaged one. Add"
    )
    assert read_manifest(folder).version == version

    code, out, err = run_verb(monkeypatch, capsys, config, "--set", "export.tables=int8", "--overwrite")
    assert (code, err) == (0, "")
    assert "joint_purchase" in out
    assert read_manifest(folder).version != version


def test_an_interrupted_export_is_made_by_running_again(
    trained: Trained, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = other(trained, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(export_run, "write_program", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            export(config)
    assert not config.export_dir.exists()
    folder, is_new = export(config)
    assert is_new
    assert read_manifest(folder).version == read_manifest(exported).version


@pytest.mark.parametrize("name", [TENSORS_NAME, PROGRAM_NAME, "schema.json", "vocabularies/item_id.arrow"])
def test_a_damaged_file_is_named_in_one_line_and_made_anew(
    trained: Trained, exported: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "export"
    shutil.copytree(exported, folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ArtifactError) as refused:
        Serving.load(folder)
    assert str(refused.value) == (
        f"export file {folder / name} is damaged: its sha256 is not the one in the manifest. "
        "Run `export` again with --overwrite."
    )
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"export file {folder / name} is not there"):
        Serving.load(folder)
    assert not export_run.is_export_of(folder, trained.checkpoint, trained.config)
    assert export_run.is_export_of(exported, trained.checkpoint, trained.config)


def test_an_edited_a_newer_or_no_manifest_is_refused(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    shutil.copytree(exported, folder)
    path = folder / MANIFEST_NAME
    content = json.loads(path.read_text())
    for change, message in (
        ({"version": "0" * 12}, "is damaged: its fields do not fit its field digest"),
        ({"format_version": 2}, "has format 2, and this Gatehouse reads up to 1. Install the version"),
        ({"table_rows": 3}, "field table_rows"),
    ):
        path.write_text(json.dumps(content | change))
        with pytest.raises(ArtifactError, match=message):
            Serving.load(folder)
    path.write_text("{")
    with pytest.raises(ArtifactError, match="cannot be read"):
        Serving.load(folder)
    path.unlink()
    with pytest.raises(ArtifactError, match="holds no complete export"):
        Serving.load(folder)


# --- newer values


def test_values_that_are_newer_than_the_model_are_unseen_ones(
    demo_settings: dict[str, Any], trained: Trained, exported: Path, tmp_path: Path
) -> None:
    extended = {**demo_settings["preprocess"], "extend": str(trained.config.dataset_dir)}
    split = {**extended["split"], "validation_from": "2025-01-12T12:00:00", "test_from": "2025-01-12T18:00:00"}
    settings = merged(demo_settings, {"workspace": str(tmp_path / "run"), "export": {"parity_rows": 300}})
    config = build(RunConfig, {**settings, "preprocess": {**extended, "split": split}}, "the tests")
    preprocess(config, InProcessExecutor())
    before, grown = (
        digest_vocabulary(folder, "item_id") for folder in (trained.config.dataset_dir, config.dataset_dir)
    )
    assert grown.num_values > before.num_values
    folder, _ = export(config, checkpoint=trained.checkpoint)
    assert digest_vocabulary(folder, "item_id") == before
    serving = Serving.load(folder)
    assert serving.version == Serving.load(exported).version
    with pa.ipc.open_file(config.dataset_dir / "vocabularies" / "item_id.arrow") as reader:
        values = reader.read_all()["value"].combine_chunks()
    rows = serving.fitted.encodings["item_id"].rows_of(values)
    assert (rows[before.num_values :] == UNSEEN_ROW).all()
    assert (rows[: before.num_values] != UNSEEN_ROW).all()
