"""What a checkpoint was trained with beside its rows, vocabularies and numbers, and how a dataset fits them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import ArtifactError
from pipeline.feature_kinds import NUM_RESERVED_ROWS
from pipeline.files import sha256_of
from pipeline.schema import Schema
from pipeline.shards.manifest import DatasetIndex
from pipeline.shards.vocabularies import VOCABULARIES_FOLDER, digest_vocabulary
from pipeline.train.checkpoints.checkpoint import CheckpointManifest, VocabularyEntry

_REMEDY = "train again on this dataset, or make it with preprocess.extend from the one it was trained on"
_SCALED_KINDS = ("regression", "watch_time")


def describe_vocabularies(index: DatasetIndex, dataset_dir: Path) -> dict[str, VocabularyEntry]:
    """What a checkpoint keeps of the vocabularies it was trained with, by table."""
    owners = index.data_schema.table_owners()
    digests = {
        table: digest_vocabulary(dataset_dir, table) for table, owner in owners.items() if owner.fixed_rows is None
    }
    return {table: VocabularyEntry(**digest._asdict()) for table, digest in digests.items()}


def digest_numbers(index: DatasetIndex, dataset_dir: Path) -> str:
    """A sha256 over normalizations and boundaries, and the statistics that labels are scaled with."""
    numbers = {path.name: sha256_of(path) for path in sorted((dataset_dir / VOCABULARIES_FOLDER).glob("*.json"))}
    scales = {
        task.name: index.label_statistics[task.name].model_dump(mode="json")
        for task in index.data_schema.tasks
        if task.kind in _SCALED_KINDS
    }
    return hashlib.sha256(json.dumps([numbers, scales], sort_keys=True).encode()).hexdigest()


def changed_tables(manifest: CheckpointManifest, index: DatasetIndex, dataset_dir: Path) -> list[str]:
    """Tables of both whose rows do not mean the same; rows that only the dataset has do not count."""
    owners, earlier_owners = index.data_schema.table_owners(), manifest.data_schema.table_owners()
    has_same_numbers = manifest.numbers == digest_numbers(index, dataset_dir)
    changed = []
    for table in sorted(owners.keys() & earlier_owners.keys()):
        if owners[table].fixed_rows is not None or earlier_owners[table].fixed_rows is not None:
            # Which row a value has is said by the feature alone, unless its buckets were fitted.
            is_fitted = getattr(owners[table], "num_buckets", None) is not None
            if owners[table] != earlier_owners[table] or (is_fitted and not has_same_numbers):
                changed.append(table)
        elif table in manifest.vocabularies:
            before = manifest.vocabularies[table]
            if digest_vocabulary(dataset_dir, table, before.num_values) != (before.num_values, before.sha256):
                changed.append(table)
    return changed


def check_lineage(
    manifest: CheckpointManifest, schema: Schema, index: DatasetIndex, checkpoint: Path, dataset_dir: Path
) -> dict[str, int]:
    """The rows of each table that a checkpoint knows; ids of the dataset above them are newer than the model.

    Raises:
        ArtifactError: the checkpoint was trained with another schema or other numbers, or with a vocabulary that is not
            the beginning of the dataset's; the message names the table.
    """
    if manifest.schema_fingerprint != schema.fingerprint():
        difference = "; ".join(schema.differences(manifest.data_schema)[:3])
        raise ArtifactError(
            f"checkpoint {checkpoint} was trained with another schema: {difference}",
            "restore the schema, or train again",
        )
    is_same_version = manifest.vocabulary_version == index.vocabulary_version
    if manifest.numbers is None and not is_same_version:
        raise ArtifactError(
            f"checkpoint {checkpoint} was trained with vocabulary {manifest.vocabulary_version[:12]}, "
            f"and {dataset_dir} has {index.vocabulary_version[:12]}",
            "train again on this dataset, or use the dataset it was trained on",
        )
    if manifest.numbers not in (None, digest_numbers(index, dataset_dir)):
        raise ArtifactError(
            f"checkpoint {checkpoint} was trained with other normalizations, boundaries or scales of labels than "
            f"{dataset_dir} has",
            _REMEDY,
        )
    if is_same_version:
        return dict(index.table_rows)
    if changed := changed_tables(manifest, index, dataset_dir):
        raise ArtifactError(
            f"the vocabulary of table {changed[0]!r} in {dataset_dir} does not begin with the one that checkpoint "
            f"{checkpoint} was trained with",
            _REMEDY,
        )
    known = {table: NUM_RESERVED_ROWS + entry.num_values for table, entry in manifest.vocabularies.items()}
    return {**index.table_rows, **known}


def describe_newer_values(newer_values: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A line for each feature that has values newer than the model, from {feature: {"values", "newer"}}."""
    return [
        f"{feature}: {found['newer']:,} of {found['values']:,} values ({found['newer'] / found['values']:.1%}) are "
        "newer than the model and count as unseen"
        for feature, found in newer_values.items()
        if found["newer"]
    ]
