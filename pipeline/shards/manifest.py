"""What a dataset is on disk: its index, the Arrow schema of its shards, and the check that they are intact."""

import hashlib
import json
import os
import re
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, FiniteFloat, PositiveInt, ValidationError

from pipeline.config import Section
from pipeline.errors import ArtifactError
from pipeline.executor import InProcessExecutor
from pipeline.feature_kinds import ListFeature, WeightedMultiValuedFeature
from pipeline.files import retry, sha256_of, write_json
from pipeline.schema import Schema

INDEX_NAME = "index.json"
# In the index beside the fields: the sha256 of each, so that a field that was edited is named.
DIGESTS_KEY = "digests"
PLAIN_NAME = re.compile(r"[\w-][\w.-]*", re.ASCII)
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SHARD_PATTERNS = tuple(f"{split}-*.arrow" for split in SPLITS)
# What lies in a dataset's folder beside the index, the shards and the vocabularies.
STATISTICS_NAME = "statistics.json"
SIDE_PATTERNS = (STATISTICS_NAME, "quarantine-*.parquet")

DENSE_COLUMN = "dense"
LABELS_COLUMN = "labels"
WEIGHT_COLUMN = "weight"
KEY_PREFIX = "key_"
SPARSE_PREFIX = "sparse_"
WEIGHTS_PREFIX = "weights_"

# In the schema of a compressed shard: the rows of each of its record batches but the last.
ROWS_PER_BATCH_KEY = b"rows_per_batch"

# Each is hashed at 1.5 GiB/s: few disks give more than these ask for.
SHARDS_AT_ONCE = 8
SHARD_REMEDY = "restore the file or run `preprocess` again"


class ShardEntry(Section):
    path: str
    split: Split
    rows: int = Field(ge=1)
    bytes: int = Field(ge=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class LabelStatistics(Section):
    """Of the training rows on which the task is defined: those where its space's label is 1.

    `mean` and `deviation` are those of the label as shards have it: of a binary task the mean is the share of 1; of a
    multiclass task they are about places of classes, whose shares are in statistics.json.
    """

    rows: int = Field(ge=0)
    mean: FiniteFloat
    deviation: FiniteFloat = Field(ge=0)


class DatasetIndex(Section):
    """The manifest of a dataset; a dataset without it does not exist."""

    format_version: Literal[2] = 2
    schema_fingerprint: str
    data_schema: Schema
    vocabulary_version: str
    table_rows: dict[str, PositiveInt]
    label_statistics: dict[str, LabelStatistics]
    time_range: tuple[str, str] | None
    shards: tuple[ShardEntry, ...]

    def of_split(self, split: Split) -> list[ShardEntry]:
        return [shard for shard in self.shards if shard.split == split]

    def num_rows(self, split: Split) -> int:
        return sum(shard.rows for shard in self.of_split(split))


def shard_schema(schema: Schema, table_rows: dict[str, int], key_types: dict[str, pa.DataType]) -> pa.Schema:
    """The Arrow schema of a shard: sparse features in schema order, `dense`, `labels`, `weight` if any, the raw keys.

    The ids of a weighted feature are followed by their weights.
    `key_types` maps a role of the schema's keys (user, item, request, time, row) to its raw Arrow type.
    """
    fields = []
    for feature in schema.sparse_features:
        ids = id_type(table_rows[feature.table_name])
        type_ = pa.list_(ids) if isinstance(feature, ListFeature) else ids
        fields.append(pa.field(SPARSE_PREFIX + feature.name, type_, nullable=False))
        if isinstance(feature, WeightedMultiValuedFeature):
            fields.append(pa.field(WEIGHTS_PREFIX + feature.name, pa.list_(pa.float32()), nullable=False))
    if schema.dense_names:
        fields.append(pa.field(DENSE_COLUMN, pa.list_(pa.float32(), len(schema.dense_names)), nullable=False))
    fields.append(pa.field(LABELS_COLUMN, pa.list_(pa.float32(), len(schema.tasks)), nullable=False))
    if schema.weight:
        fields.append(pa.field(WEIGHT_COLUMN, pa.float32(), nullable=False))
    fields += [pa.field(KEY_PREFIX + role, type_) for role, type_ in key_types.items()]
    return pa.schema(fields)


def id_type(table_rows: int) -> pa.DataType:
    """The narrowest of int32 and int64 that holds every row number of a table."""
    return pa.int32() if table_rows <= 2**31 else pa.int64()


def write_index(dataset_dir: Path, index: DatasetIndex) -> None:
    content = index.model_dump(mode="json")
    digests = {field: _digest(value) for field, value in content.items()}
    write_json(dataset_dir / INDEX_NAME, content | {DIGESTS_KEY: digests})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_index(dataset_dir: Path) -> DatasetIndex:
    """The checked index of a dataset.

    Raises:
        ArtifactError: there is none, or a field of it is wrong or was edited; the message names the field.
    """
    path = dataset_dir / INDEX_NAME
    if not path.is_file():
        raise ArtifactError(f"{dataset_dir} holds no complete dataset ({INDEX_NAME} is not there)", "run `preprocess`")
    try:
        content = json.loads(retry(path.read_bytes, path))
        digests = content.pop(DIGESTS_KEY, None) if isinstance(content, dict) else None
        index = DatasetIndex.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in problem["loc"]) or "(all)"
        raise _wrong_field(path, field, problem["msg"]) from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not JSON: {error}", "run `preprocess` again") from error
    _check_references(path, index)
    if not isinstance(digests, dict):
        raise _wrong_field(path, DIGESTS_KEY, "Field required")
    for field in dict.fromkeys([*content, *digests]):
        if field not in content or digests.get(field) != _digest(content[field]):
            raise _wrong_field(path, field, f"it was edited: its sha256 is not the one in {DIGESTS_KEY}")
    return index


def _check_references(path: Path, index: DatasetIndex) -> None:
    """Raises an ArtifactError when a field does not fit another one, or the path of a shard is no name of its own."""
    if index.data_schema.fingerprint() != index.schema_fingerprint:
        raise _wrong_field(path, "schema_fingerprint", "it does not fit data_schema")
    for field, found, expected in (
        ("table_rows", index.table_rows, index.data_schema.table_owners()),
        ("label_statistics", index.label_statistics, [task.name for task in index.data_schema.tasks]),
    ):
        if set(found) != set(expected):
            raise _wrong_field(path, field, f"it names {', '.join(found) or 'nothing'}, expected {', '.join(expected)}")
    seen: dict[str, int] = {}
    for place, shard in enumerate(index.shards):
        if not PLAIN_NAME.fullmatch(shard.path):
            raise _wrong_field(path, f"shards.{place}.path", f"{shard.path!r} is not a plain file name")
        if shard.path in seen:
            raise _wrong_field(path, f"shards.{place}.path", f"{shard.path!r} is shards.{seen[shard.path]} already")
        seen[shard.path] = place


def _wrong_field(path: Path, field: str, rule: str) -> ArtifactError:
    return ArtifactError(f"{path}: field {field}: {rule}", "run `preprocess` again")


def check_schema(index: DatasetIndex, schema: Schema, dataset_dir: Path) -> None:
    """Raises an ArtifactError that shows the difference when the dataset was made with another schema."""
    if index.schema_fingerprint != schema.fingerprint():
        difference = "; ".join(schema.differences(index.data_schema)[:3])
        raise ArtifactError(
            f"the dataset in {dataset_dir} was made with another schema: {difference}",
            "run `preprocess` again, or restore the schema",
        )


def verify_shards(dataset_dir: Path, shards: list[ShardEntry]) -> None:
    """Checks that each shard is there, whole and unchanged: sizes of all first, then content, of some at a time.

    Raises:
        ArtifactError: names the first shard that is not, with expected and actual bytes or sha256.
    """
    for shard in shards:
        path = dataset_dir / shard.path
        num_bytes = _size_of(path)
        if num_bytes is None:
            raise _missing(dataset_dir, shard)
        if num_bytes != shard.bytes:
            raise ArtifactError(f"shard {path} has {num_bytes} bytes, expected {shard.bytes}", SHARD_REMEDY)
    executor = InProcessExecutor(min(os.cpu_count() or 1, SHARDS_AT_ONCE))
    for _ in executor.map(partial(_check_content, dataset_dir), shards):
        pass


def _check_content(dataset_dir: Path, shard: ShardEntry) -> None:
    path = dataset_dir / shard.path
    try:
        found = sha256_of(path)
    except OSError as error:
        raise ArtifactError(f"shard {path} cannot be read: {error}", SHARD_REMEDY) from error
    if found != shard.sha256:
        raise ArtifactError(f"shard {path} is damaged: sha256 {found[:12]}, expected {shard.sha256[:12]}", SHARD_REMEDY)


def unlisted_shards(dataset_dir: Path, index: DatasetIndex) -> list[str]:
    """A warning, one line, for each file of the folder that looks like a shard and that nothing reads."""
    listed = {shard.path for shard in index.shards}
    return [
        f"shard {path} is not in {INDEX_NAME} and is ignored; remove it, or run `preprocess` again"
        for path in sorted(dataset_dir.glob("*.arrow"))
        if path.name not in listed
    ]


def _size_of(path: Path) -> int | None:
    return retry(lambda: path.stat().st_size if path.is_file() else None, path)


def _missing(dataset_dir: Path, shard: ShardEntry) -> ArtifactError:
    """The error for a shard that is not there; it names a file that has its content, as after a renaming."""
    for path in sorted(dataset_dir.glob("*.arrow")):
        if _size_of(path) == shard.bytes and sha256_of(path) == shard.sha256:
            return ArtifactError(
                f"shard {dataset_dir / shard.path} is not there, but {path.name} has its content",
                f"rename {path.name} to {shard.path}, or run `preprocess` again",
            )
    return ArtifactError(f"shard {dataset_dir / shard.path} is not there", SHARD_REMEDY)
