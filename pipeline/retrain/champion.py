"""The champion as a retraining needs it: its files on this disk, and until when it has been trained."""

from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from pipeline import storage
from pipeline.config import Section
from pipeline.errors import ArtifactError, UsageError
from pipeline.registry.names import version_folder
from pipeline.registry.registry import Registry
from pipeline.retrain.config import UtcTime
from pipeline.schema import Schema

# The files of a version.
CHECKPOINT_FOLDER = "checkpoint"
DATASET_FOLDER = "dataset"
EXPORT_FOLDER = "export"
SLOT_NAME = "slot.json"


class SlotRecord(Section):
    """slot.json of a version: the rows that its model was trained on, from what it was started from."""

    run_id: str
    slot: UtcTime
    trained_from: UtcTime
    trained_until: UtcTime


class Champion(NamedTuple):
    """`has_same_schema` says whether its dataset can be extended and its checkpoint be trained on and compared with."""

    version: int
    trained_until: datetime
    has_same_schema: bool


class ChampionFiles(NamedTuple):
    """Its verified files: all of them, and of these the checkpoint."""

    folder: Path
    checkpoint: Path


def read_champion(registry: Registry, number: int, schema: Schema) -> Champion:
    """A version that is or was the champion.

    Raises:
        ArtifactError: it cannot be read; nothing replaces it then.
    """
    record = read_record(registry, number)
    fingerprint = registry.show(number).lineage.schema_fingerprint
    return Champion(number, record.trained_until, fingerprint == schema.fingerprint())


def read_record(registry: Registry, number: int) -> SlotRecord:
    """What a version says of its slot.

    Raises:
        ArtifactError: the version is not there, is damaged, or is none of a retraining.
    """
    try:
        registry.show(number)
        location = registry.root.at(f"{version_folder(number)}/{SLOT_NAME}")
        return SlotRecord.model_validate_json(storage.read_bytes(location))
    except (UsageError, OSError, ValidationError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ArtifactError(
            f"version {number} of {registry.root.location} cannot be trained on: {reason}",
            "restore it, or roll back or promote to a version that `gatehouse retrain` made",
        ) from error


def fetch_champion(registry: Registry, number: int, copies: Path) -> ChampionFiles:
    """The files of a champion that can be read; of a registry in a store a copy below `copies`.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    folder = registry.fetch(number, copies)
    (checkpoint,) = (folder / CHECKPOINT_FOLDER).glob("step-*")
    return ChampionFiles(folder, checkpoint)
