"""Checkpoints: plan-independent tensors, a manifest with the sha256 of every file, complete or not there at all.

checkpoints/step-00001234/   tensors of torch.distributed.checkpoint, then manifest.json
A folder is written under a hidden name and renamed when it is complete; the manifest holds all scalars.
"""

import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from pydantic import Field, ValidationError
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

from pipeline.config import Section
from pipeline.errors import ArtifactError
from pipeline.files import sha256_of, sync_folder, write_json
from pipeline.schema import Schema

MANIFEST_NAME = "manifest.json"
PARTIAL_PREFIX = ".partial-"
REMEDY = "remove that checkpoint folder to use the one before it, or train again"


class FileEntry(Section):
    bytes: int
    sha256: str


class CheckpointManifest(Section):
    """All of a checkpoint that is not a tensor."""

    format_version: Literal[1] = 1
    step: int
    epoch: int
    step_in_epoch: int
    schema_fingerprint: str
    data_schema: Schema
    vocabulary_version: str
    run_fingerprint: str
    validation_losses: dict[str, float] | None
    validation_total: float | None
    best_validation_total: float | None
    validations_without_improvement: int
    is_finished: bool
    files: dict[str, FileEntry] = Field(default_factory=dict)


def save_checkpoint(folder: Path, state: dict[str, Any], manifest: CheckpointManifest) -> Path:
    """Writes a checkpoint from all ranks and returns its folder. Needs a process group.

    `state` holds tensors only, plain or sharded, in nested dicts.
    """
    is_first = dist.get_rank() == 0
    final = folder / f"step-{manifest.step:08d}"
    partial = folder / f"{PARTIAL_PREFIX}{final.name}"
    if is_first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    dcp.save(state, checkpoint_id=partial)  # type: ignore[attr-defined]
    if is_first:
        entries = {
            path.name: FileEntry(bytes=path.stat().st_size, sha256=sha256_of(path))
            for path in sorted(partial.iterdir())
        }
        write_json(partial / MANIFEST_NAME, manifest.model_copy(update={"files": entries}).model_dump(mode="json"))
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        sync_folder(folder)
    dist.barrier()
    return final


def load_tensors(checkpoint: Path, state: dict[str, Any], *, is_distributed: bool) -> None:
    """Fills the tensors of `state` in place, whatever the ranks and plan they were saved with.

    Never runs code from the files. Call `read_manifest` with `verify=True` first.

    Raises:
        ArtifactError: the tensors do not fit, or the checkpoint holds something else than tensors.
    """
    reader = _TensorReader(checkpoint)
    reader.read_metadata()
    try:
        dcp.load(state, storage_reader=reader, no_dist=not is_distributed)  # type: ignore[attr-defined]
    # Not an Exception: torch derives it from BaseException.
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        raise ArtifactError(
            f"checkpoint {checkpoint} does not fit the model: {str(cause).strip().splitlines()[-1][:200]}",
            "use the configuration it was trained with, or train again",
        ) from error


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a folder, the oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / MANIFEST_NAME).is_file())


def remove_partial(folder: Path) -> None:
    """Removes what an interrupted write left behind."""
    for path in folder.glob(f"{PARTIAL_PREFIX}*"):
        shutil.rmtree(path)


def best_checkpoint(folder: Path) -> Path:
    """The checkpoint with the lowest validation loss, the earlier one of equals; the newest if none was validated.

    Raises:
        ArtifactError: the folder holds no complete checkpoint.
    """
    checkpoints = list_checkpoints(folder)
    if not checkpoints:
        raise ArtifactError(f"{folder} holds no complete checkpoint", "run `train` first")
    scored = [(read_manifest(path).validation_total, path) for path in checkpoints]
    validated = [(total, path) for total, path in scored if total is not None]
    return min(validated)[1] if validated else checkpoints[-1]


def prune(folder: Path, keep: int) -> None:
    """Removes all checkpoints but the `keep` newest ones and the best one."""
    kept = {*list_checkpoints(folder)[-keep:], best_checkpoint(folder)}
    for path in list_checkpoints(folder):
        if path not in kept:
            (path / MANIFEST_NAME).unlink()
            shutil.rmtree(path)


def read_manifest(checkpoint: Path, *, verify: bool = False) -> CheckpointManifest:
    """The manifest of a checkpoint; with `verify`, every file is compared with its size and sha256.

    Raises:
        ArtifactError: names the checkpoint and the file or field.
    """
    path = checkpoint / MANIFEST_NAME
    if not path.is_file():
        raise ArtifactError(f"{checkpoint} is not a complete checkpoint", "give a folder that `train` wrote")
    try:
        manifest = CheckpointManifest.model_validate(json.loads(path.read_bytes()))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise ArtifactError(f"{path}: field {field}: {problem['msg']}", REMEDY) from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}", REMEDY) from error
    if verify:
        for message in _damages(checkpoint, manifest):
            raise ArtifactError(message, REMEDY)
    return manifest


def check_lineage(
    manifest: CheckpointManifest, schema: Schema, vocabulary_version: str, checkpoint: Path, dataset: Path
) -> None:
    """Raises an ArtifactError when a checkpoint was trained with another schema or other vocabularies."""
    if manifest.schema_fingerprint != schema.fingerprint():
        difference = "; ".join(schema.differences(manifest.data_schema)[:3])
        raise ArtifactError(
            f"checkpoint {checkpoint} was trained with another schema: {difference}",
            "restore the schema, or train again",
        )
    if manifest.vocabulary_version != vocabulary_version:
        raise ArtifactError(
            f"checkpoint {checkpoint} was trained with vocabulary {manifest.vocabulary_version[:12]}, "
            f"and {dataset} has {vocabulary_version[:12]}",
            "train again on this dataset, or use the dataset it was trained on",
        )


def _damages(checkpoint: Path, manifest: CheckpointManifest) -> Iterator[str]:
    present = {path.name for path in checkpoint.iterdir()} - {MANIFEST_NAME}
    for name in sorted(present - manifest.files.keys()):
        yield f"checkpoint {checkpoint} holds {name}, which its manifest does not list"
    for name, entry in manifest.files.items():
        path = checkpoint / name
        if Path(name).name != name or not path.is_file():
            yield f"checkpoint file {path} is not there"
        elif path.stat().st_size != entry.bytes:
            yield f"checkpoint file {path} has {path.stat().st_size} bytes, expected {entry.bytes}"
        elif sha256_of(path) != entry.sha256:
            yield f"checkpoint file {path} is damaged: its sha256 is not the one in the manifest"


class _TensorReader(FileSystemReader):
    """Reads tensors and nothing else: torch's own reader runs code from a forged metadata file or bytes entry."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with open(Path(self.path) / ".metadata", "rb") as file:
            metadata = _MetadataUnpickler(file).load()
        if getattr(metadata, "storage_meta", None) is None:
            raise ArtifactError(f"checkpoint {self.path} has no storage metadata", REMEDY)
        metadata.storage_meta.load_id = self.load_id
        for key, entry in metadata.state_dict_metadata.items():
            if isinstance(entry, BytesStorageMetadata):
                raise ArtifactError(f"checkpoint {self.path}: entry {key!r} is not a tensor", REMEDY)
        assert isinstance(metadata, Metadata)
        return metadata


class _MetadataUnpickler(pickle.Unpickler):
    """Allows the classes that torch's checkpoint metadata consists of."""

    ALLOWED = frozenset(
        {
            ("collections", "OrderedDict"),
            ("pathlib", "PosixPath"),
            ("torch", "Size"),
            ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
            ("torch.serialization", "_get_layout"),
            *(
                ("torch.distributed.checkpoint.metadata", name)
                for name in (
                    "_MEM_FORMAT_ENCODING",
                    "BytesStorageMetadata",
                    "ChunkStorageMetadata",
                    "Metadata",
                    "MetadataIndex",
                    "StorageMeta",
                    "TensorProperties",
                    "TensorStorageMetadata",
                )
            ),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if (module, name) in self.ALLOWED or is_dtype:
            return super().find_class(module, name)
        raise ArtifactError(f"checkpoint metadata names {module}.{name}, which is not allowed in it", REMEDY)
