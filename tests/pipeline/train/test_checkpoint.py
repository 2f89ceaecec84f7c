"""Checkpoints: whole or not there, checked before use, and never a way to run code."""

import hashlib
import json
import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.assemble import build_model
from pipeline.errors import ArtifactError
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import read_index
from pipeline.train.checkpoints.checkpoint import (
    MANIFEST_NAME,
    list_checkpoints,
    partial_folder,
    read_manifest,
    remove_partial,
)
from pipeline.train.checkpoints.lineage import check_lineage
from pipeline.train.checkpoints.reader import load_tensors
from pipeline.train.predictor import Predictor
from pipeline.train.run import train


@pytest.fixture
def trained(make_config: Any) -> tuple[RunConfig, Path]:
    config = make_config()
    return config, train(config)


def test_a_flipped_byte_anywhere_is_found(trained: tuple[RunConfig, Path]) -> None:
    _, checkpoint = trained
    files = sorted(path for path in checkpoint.iterdir() if path.name != MANIFEST_NAME)
    choose = random.Random(0)
    for _ in range(20):
        path = choose.choice(files)
        content = bytearray(path.read_bytes())
        place = choose.randrange(len(content))
        content[place] ^= 1 << choose.randrange(8)
        original = path.read_bytes()
        path.write_bytes(bytes(content))
        with pytest.raises(ArtifactError, match="is damaged"):
            read_manifest(checkpoint, verify=True)
        path.write_bytes(original)
    read_manifest(checkpoint, verify=True)


@pytest.mark.parametrize("kept", [0, 1, 0.5, -10])
def test_a_truncated_file_is_named_with_its_sizes(trained: tuple[RunConfig, Path], kept: float) -> None:
    _, checkpoint = trained
    path = sorted(checkpoint.glob("*.distcp"))[0]
    size = path.stat().st_size
    left = int(size * kept) if isinstance(kept, float) else kept if kept >= 0 else size + kept
    os.truncate(path, left)
    with pytest.raises(ArtifactError, match=f"has {left} bytes, expected {size}"):
        read_manifest(checkpoint, verify=True)


def test_a_missing_or_a_stray_file_is_refused(trained: tuple[RunConfig, Path]) -> None:
    _, checkpoint = trained
    (checkpoint / "__7_0.distcp").write_bytes(b"left by another attempt")
    with pytest.raises(ArtifactError, match=r"holds __7_0\.distcp, which its manifest does not list"):
        read_manifest(checkpoint, verify=True)
    (checkpoint / "__7_0.distcp").unlink()
    (checkpoint / ".metadata").unlink()
    with pytest.raises(ArtifactError, match=r"\.metadata is not there"):
        read_manifest(checkpoint, verify=True)


def test_a_checkpoint_without_a_manifest_does_not_exist(trained: tuple[RunConfig, Path]) -> None:
    config, checkpoint = trained
    (checkpoint / MANIFEST_NAME).unlink()
    assert list_checkpoints(config.checkpoints_dir) == []
    with pytest.raises(ArtifactError, match="is not a complete checkpoint"):
        read_manifest(checkpoint)


def test_what_an_interrupted_write_left_is_swept(tmp_path: Path) -> None:
    partial = partial_folder(tmp_path, 5, "0badcafe")
    partial.mkdir()
    (partial / "__0_0.distcp").write_bytes(b"half")
    remove_partial(tmp_path)
    assert list(tmp_path.iterdir()) == []


class _Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_forged_metadata_does_not_run_its_code(trained: tuple[RunConfig, Path], tmp_path: Path) -> None:
    config, checkpoint = trained
    (checkpoint / ".metadata").write_bytes(pickle.dumps(_Payload(tmp_path / "ran")))
    model = build_model(read_index(config.dataset_dir), config.model, 0, torch.device("cpu"))
    with pytest.raises(ArtifactError, match="mkdir, which is not allowed"):
        load_tensors(checkpoint, {"model": model.state_dict()}, is_distributed=False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("legacy", [True, False])
def test_a_file_of_tensors_does_not_run_its_code(trained: tuple[RunConfig, Path], tmp_path: Path, legacy: bool) -> None:
    config, checkpoint = trained
    path = next(checkpoint.glob("*.distcp"))
    size = path.stat().st_size
    torch.save(_Payload(tmp_path / "ran"), path, _use_new_zipfile_serialization=not legacy)
    with open(path, "ab") as file:
        file.write(b"\0" * size)
    model = build_model(read_index(config.dataset_dir), config.model, 0, torch.device("cpu"))
    state = {"model": {f"model.{name}": value for name, value in model.state_dict().items()}}
    with pytest.raises(ArtifactError):
        load_tensors(checkpoint, state, is_distributed=False)
    assert not (tmp_path / "ran").exists()


def test_an_entry_that_is_not_a_tensor_is_refused(trained: tuple[RunConfig, Path]) -> None:
    import torch.distributed.checkpoint as dcp

    config, checkpoint = trained
    other = checkpoint.parent / "other"
    dcp.save({"model": {"x": [1, 2]}}, checkpoint_id=other, no_dist=True)  # type: ignore[attr-defined]
    with pytest.raises(ArtifactError, match="is not a tensor"):
        load_tensors(other, {"model": {"x": torch.zeros(1)}}, is_distributed=False)
    assert config.checkpoints_dir.is_dir()


def test_a_model_of_another_shape_is_one_line(trained: tuple[RunConfig, Path], make_config: Any) -> None:
    config, checkpoint = trained
    other = make_config(model={"tower_widths": [4]})
    with pytest.raises(ArtifactError, match="does not fit the model") as caught:
        Predictor(other, read_index(config.dataset_dir), checkpoint, 100)
    assert "\n" not in str(caught.value)


def test_another_schema_is_refused_with_the_difference(trained: tuple[RunConfig, Path], make_config: Any) -> None:
    config, checkpoint = trained
    manifest = read_manifest(checkpoint)
    features = [f for f in config.data_schema.model_dump(mode="json")["features"] if f["name"] != "price"]
    other = make_config(schema={"features": features}).data_schema
    with pytest.raises(ArtifactError, match="another schema: feature 'price' is gone"):
        check_lineage(manifest, other, read_index(config.dataset_dir), checkpoint, config.dataset_dir)


def test_an_earlier_checkpoint_knows_only_the_dataset_it_was_trained_on(trained: tuple[RunConfig, Path]) -> None:
    config, checkpoint = trained
    path = checkpoint / MANIFEST_NAME
    content = json.loads(path.read_text())
    del content["numbers"], content["digest"]
    content["digest"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(content))
    manifest, index = read_manifest(checkpoint), read_index(config.dataset_dir)
    assert check_lineage(manifest, config.data_schema, index, checkpoint, config.dataset_dir) == index.table_rows
    other = index.model_copy(update={"vocabulary_version": "0" * 64})
    with pytest.raises(ArtifactError, match="was trained with vocabulary"):
        check_lineage(manifest, config.data_schema, other, checkpoint, config.dataset_dir)
