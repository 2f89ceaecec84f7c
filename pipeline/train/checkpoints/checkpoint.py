"""Checkpoints on disk: a manifest with the sha256 of every file, complete or not there at all.

checkpoints/step-00001234/   tensors of torch.distributed.checkpoint, then manifest.json
A folder is written under a hidden name and renamed when it is complete; the manifest holds all scalars.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from pipeline.config import Section
from pipeline.errors import ArtifactError
from pipeline.files import retry, sha256_of, sync_folder, write_json
from pipeline.schema import Schema

MANIFEST_NAME = "manifest.json"
PARTIAL_PREFIX = ".partial-"
DAMAGED_PREFIX = "damaged-"
REMEDY = "add --fallback to go on from the checkpoint before it, or train again"


class DamagedCheckpointError(ArtifactError):
    """A checkpoint that is not what its manifest says."""


class FileEntry(Section):
    bytes: int
    sha256: str


class VocabularyEntry(Section):
    """The values of a table's vocabulary in the order of its rows."""

    num_values: int
    sha256: str


class CheckpointManifest(Section):
    """All of a checkpoint that is not a tensor. `attempt` names the start of the run that wrote it."""

    format_version: Literal[2] = 2
    step: int
    epoch: int
    step_in_epoch: int
    attempt: str
    num_ranks: int
    schema_fingerprint: str
    data_schema: Schema
    vocabulary_version: str
    vocabularies: dict[str, VocabularyEntry]
    numbers: str | None = Field(None, description="what `digest_numbers` gave; an earlier checkpoint lacks it")
    run_fingerprint: str
    validation_losses: dict[str, float] | None
    validation_total: float | None
    best_validation_total: float | None
    validations_without_improvement: int
    is_finished: bool
    files: dict[str, FileEntry] = Field(default_factory=dict)
    digest: str = Field("", description="sha256 over all other fields")

    def digest_of_fields(self) -> str:
        # What an earlier checkpoint lacks is not in its digest either.
        left_out = {"digest"} if self.numbers is not None else {"digest", "numbers"}
        fields = self.model_dump(mode="json", exclude=left_out)
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def partial_folder(folder: Path, step: int, attempt: str) -> Path:
    """Where a checkpoint is written before it is complete; another attempt has another one."""
    return folder / f"{PARTIAL_PREFIX}step-{step:08d}-{attempt}"


def describe_file(path: Path) -> FileEntry:
    return FileEntry(bytes=path.stat().st_size, sha256=sha256_of(path))


def commit(partial: Path, manifest: CheckpointManifest, files: dict[str, FileEntry]) -> Path:
    """Makes a written folder a checkpoint: the manifest, then the rename. Returns the checkpoint.

    Raises:
        DamagedCheckpointError: the folder holds a file that none of the ranks wrote.
    """
    stray = sorted({path.name for path in partial.iterdir()} - files.keys())
    if stray:
        raise DamagedCheckpointError(f"{partial} holds {stray[0]}, which no rank of this run wrote", "train again")
    listed = manifest.model_copy(update={"files": files})
    sealed = listed.model_copy(update={"digest": listed.digest_of_fields()})
    write_json(partial / MANIFEST_NAME, sealed.model_dump(mode="json"))
    final = partial.parent / f"step-{manifest.step:08d}"
    discard(final)
    os.replace(partial, final)
    sync_folder(final.parent)
    return final


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
            discard(path)


def discard(checkpoint: Path) -> None:
    """Removes a checkpoint if it is there; what an interruption leaves of it is no checkpoint any more."""
    if checkpoint.exists():
        partial = checkpoint.with_name(f"{PARTIAL_PREFIX}old-{checkpoint.name}")
        shutil.rmtree(partial, ignore_errors=True)
        os.replace(checkpoint, partial)
        shutil.rmtree(partial)


def set_aside(checkpoint: Path) -> Path:
    """Renames a damaged checkpoint, so that it is kept and no longer used."""
    aside = checkpoint.with_name(DAMAGED_PREFIX + checkpoint.name)
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(checkpoint, aside)
    return aside


def read_manifest(checkpoint: Path, *, verify: bool = False) -> CheckpointManifest:
    """The manifest of a checkpoint; with `verify`, every file is compared with its size and sha256.

    Raises:
        DamagedCheckpointError: names the checkpoint and the file or field.
        ArtifactError: there is no complete checkpoint.
    """
    path = checkpoint / MANIFEST_NAME
    if not path.is_file():
        raise ArtifactError(f"{checkpoint} is not a complete checkpoint", "give a folder that `train` wrote")
    try:
        manifest = CheckpointManifest.model_validate(json.loads(retry(path.read_bytes, path)))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise DamagedCheckpointError(f"{path}: field {field}: {problem['msg']}", REMEDY) from error
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path} cannot be read: {error}", REMEDY) from error
    if manifest.digest != manifest.digest_of_fields():
        raise DamagedCheckpointError(f"{path} is damaged: its fields do not fit its field digest", REMEDY)
    if verify and (damage := damage_of(checkpoint, manifest)):
        raise DamagedCheckpointError(damage, REMEDY)
    return manifest


def damage_of(checkpoint: Path, manifest: CheckpointManifest, part: int = 0, num_parts: int = 1) -> str:
    """What is wrong with the files of a checkpoint, or ""; of `num_parts` readers, each hashes its part of them."""
    present = {path.name for path in checkpoint.iterdir()} - {MANIFEST_NAME}
    for name in sorted(present - manifest.files.keys()):
        return f"checkpoint {checkpoint} holds {name}, which its manifest does not list"
    for name, entry in sorted(manifest.files.items())[part::num_parts]:
        path = checkpoint / name
        if Path(name).name != name or not path.is_file():
            return f"checkpoint file {path} is not there"
        if path.stat().st_size != entry.bytes:
            return f"checkpoint file {path} has {path.stat().st_size} bytes, expected {entry.bytes}"
        if sha256_of(path) != entry.sha256:
            return f"checkpoint file {path} is damaged: its sha256 is not the one in the manifest"
    return ""
