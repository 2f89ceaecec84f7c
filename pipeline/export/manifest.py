"""What an export is on disk: a manifest with the sha256 of every file, complete or not there at all.

export/model.safetensors   all parameters and tables
       schema.json         features, keys and tasks
       vocabularies/       what encodes raw columns, as a dataset has it
       program.pt2         the model on rows as a program of torch.export, its parameters inside
       manifest.json       written last
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from models.tasks import Task
from pipeline.config import RESOLVED_NAME, Section
from pipeline.errors import ArtifactError
from pipeline.export.config import ExportConfig
from pipeline.files import retry, sha256_of, write_json
from pipeline.train.config import ModelConfig

MANIFEST_NAME = "manifest.json"
TENSORS_NAME = "model.safetensors"
SCHEMA_NAME = "schema.json"
PROGRAM_NAME = "program.pt2"
FORMAT_VERSION: Literal[1] = 1
REMEDY = "run `export` again with --overwrite"


class ExportedCheckpoint(Section):
    """Where the model comes from; `digest` is that of the checkpoint's manifest."""

    path: str
    step: int
    digest: str


class Parity(Section):
    """The largest difference of an output on so many rows, over its size, its task's scale, or 1.

    `serving` is between the checkpoint and the exported model before any type was reduced, `program` between the model
    as it was read back from the export and the program.
    """

    rows: int
    serving: float
    program: float


class ExportManifest(Section):
    """All of an export that is not a tensor, a vocabulary or the schema.

    `quality` is what reduced types cost on the validation split: a line per measured task with the value of each of its
    metrics before and after; None where no type was reduced or the split is empty. `version` is a short digest of what
    the model says: of the model, the tensors, the schema and the vocabularies.
    """

    format_version: Literal[1] = FORMAT_VERSION
    version: str = ""
    checkpoint: ExportedCheckpoint
    settings: ExportConfig
    model: ModelConfig
    tasks: tuple[Task, ...]
    table_rows: dict[str, int]
    program_inputs: dict[str, str] = Field(description="by name, the type and the shape of each input of the program")
    parity: Parity | None = None
    quality: list[dict[str, Any]] | None = None
    files: dict[str, str] = Field(default_factory=dict, description="the sha256 of each file by its path")
    digest: str = Field("", description="sha256 over all other fields")

    def digest_of_fields(self) -> str:
        return _digest(self.model_dump(mode="json", exclude={"digest"}))


def seal(folder: Path, manifest: ExportManifest) -> ExportManifest:
    """Writes the manifest of a folder whose files are complete, and returns it."""
    files = {
        path.relative_to(folder).as_posix(): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    said_by = {name: sha256 for name, sha256 in files.items() if name not in (PROGRAM_NAME, RESOLVED_NAME)}
    fields = manifest.model_dump(mode="json", include={"settings", "model", "tasks"})
    listed = manifest.model_copy(update={"files": files, "version": _digest([fields, said_by])[:12]})
    sealed = listed.model_copy(update={"digest": listed.digest_of_fields()})
    write_json(folder / MANIFEST_NAME, sealed.model_dump(mode="json"))
    return sealed


def read_manifest(folder: Path, *, verify: bool = True) -> ExportManifest:
    """The manifest of an export; with `verify`, every file is compared with its sha256.

    Raises:
        ArtifactError: there is no complete export, or one of a newer format, or it is damaged; names the file or field.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise ArtifactError(f"{folder} holds no complete export ({MANIFEST_NAME} is not there)", "run `export`")
    try:
        content = json.loads(retry(path.read_bytes, path))
        format_version = content.get("format_version") if isinstance(content, dict) else None
        if isinstance(format_version, int) and format_version > FORMAT_VERSION:
            raise ArtifactError(
                f"{path} has format {format_version}, and this Gatehouse reads up to {FORMAT_VERSION}",
                "install the version of Gatehouse that wrote it, or a newer one",
            )
        manifest = ExportManifest.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise ArtifactError(f"{path}: field {field}: {problem['msg']}", REMEDY) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}", REMEDY) from error
    if manifest.digest != manifest.digest_of_fields():
        raise ArtifactError(f"{path} is damaged: its fields do not fit its field digest", REMEDY)
    if verify:
        _check_files(folder, manifest)
    return manifest


def _check_files(folder: Path, manifest: ExportManifest) -> None:
    for name, sha256 in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"export file {path} is not there", REMEDY)
        if sha256_of(path) != sha256:
            raise ArtifactError(f"export file {path} is damaged: its sha256 is not the one in the manifest", REMEDY)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
