"""Raw columns to the encoded columns of a shard, with what was fitted on the training rows."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from pipeline.errors import ArtifactError
from pipeline.feature_kinds import BucketedFeature, SparseFeature
from pipeline.files import retry, write_json
from pipeline.preprocess.features.kinds import Places, fixed_encoding, read_dense, read_sparse
from pipeline.preprocess.features.normalize import Normalization, bucket_of, to_inputs
from pipeline.preprocess.features.vocabulary import HashBuckets, Vocabulary, encode
from pipeline.schema import Schema
from pipeline.shards.manifest import shard_schema
from pipeline.shards.vocabularies import VOCABULARIES_FOLDER, vocabulary_path

Encoding = Vocabulary | HashBuckets | Places
NORMALIZATIONS_NAME = "normalizations.json"
BOUNDARIES_NAME = "boundaries.json"
Boundaries = dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class FittedTransform:
    """What turns raw columns to encoded ones.

    An encoding per embedding table, a normalization per numeric feature, boundaries per bucketed one.
    """

    schema: Schema
    encodings: dict[str, Encoding]
    normalizations: dict[str, Normalization]
    boundaries: Boundaries = field(default_factory=dict)

    @property
    def table_rows(self) -> dict[str, int]:
        """The rows of each embedding table, the reserved ones included."""
        return {table: encoding.num_rows for table, encoding in self.encodings.items()}

    @cached_property
    def version(self) -> str:
        """A sha256 over everything fitted: it changes when an encoded row could."""
        fitted = {
            "tables": {table: encoding.fingerprint() for table, encoding in self.encodings.items()},
            "normalizations": {name: values.model_dump() for name, values in self.normalizations.items()},
        }
        if self.boundaries:
            fitted["boundaries"] = self.boundaries
        return hashlib.sha256(json.dumps(fitted, sort_keys=True).encode()).hexdigest()

    def encode_features(self, table: pa.Table, source: str, first_row: int = 0) -> pa.Table:
        """The sparse columns and `dense` of a shard, in its order, for raw rows with the features' columns.

        `source` and `first_row` say in messages where the first row of `table` lies. No label is needed.

        Raises:
            DataError: a column has the wrong type, or a text is no number.
        """
        columns: list[pa.Array] = []
        for feature in self.schema.sparse_features:
            columns += self._encode_sparse(table, feature, source, first_row)
        if self.schema.numeric_features:
            numbers = {f.name: read_dense(table, f, source, first_row).values for f in self.schema.numeric_features}
            columns.append(self.dense_of(numbers, table.num_rows))
        fields = list(shard_schema(self.schema, self.table_rows, {}))[: len(columns)]
        # The ids fit: id_type was chosen by the number of rows.
        arrays = [column.cast(field.type, safe=False) for column, field in zip(columns, fields, strict=True)]
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))

    def _encode_sparse(self, table: pa.Table, feature: SparseFeature, source: str, first_row: int) -> list[pa.Array]:
        """The ids of a feature, and their weights if it has any."""
        if isinstance(feature, BucketedFeature):
            return [pa.array(self.bucket_rows(feature.name, read_dense(table, feature, source, first_row).values))]
        values = read_sparse(table, feature, source, first_row, self.schema.keys.time)
        ids = pa.array(encode(values.codes, self.encodings[feature.table_name]))
        if values.lengths is None:
            return [ids]
        lists = [ids] if values.weights is None else [ids, pa.array(values.weights)]
        return [as_lists(one, values.lengths) for one in lists]

    def bucket_rows(self, feature: str, numbers: np.ndarray) -> np.ndarray:
        """The table rows of the numbers of a bucketed feature."""
        encoding = self.encodings[feature]
        assert isinstance(encoding, Places)
        return encoding.rows_at(bucket_of(numbers, self.boundaries[feature]))

    def dense_of(self, numbers: Mapping[str, np.ndarray], num_rows: int) -> pa.Array:
        """The `dense` column from the numbers of each feature after clip and log1p, float64 with NaN for null."""
        inputs = np.zeros((num_rows, len(self.schema.dense_names)), np.float32)
        place = 0
        for feature in self.schema.numeric_features:
            values = numbers[feature.name]
            inputs[:, place] = to_inputs(values, feature, self.normalizations[feature.name])
            place += 1
            if feature.null_indicator:
                inputs[:, place] = np.isnan(values)
                place += 1
        return pa.FixedSizeListArray.from_arrays(pa.array(inputs.reshape(-1)), inputs.shape[1])

    def save_numbers(self, dataset_dir: Path) -> None:
        """Writes the normalizations, and boundaries if there are any, beside the vocabularies."""
        if self.boundaries:
            write_json(dataset_dir / VOCABULARIES_FOLDER / BOUNDARIES_NAME, self.boundaries)
        write_json(
            dataset_dir / VOCABULARIES_FOLDER / NORMALIZATIONS_NAME,
            {name: values.model_dump() for name, values in self.normalizations.items()},
        )

    @classmethod
    def load(cls, dataset_dir: Path, schema: Schema, expected_version: str | None = None) -> "FittedTransform":
        """What `save` wrote.

        Raises:
            ArtifactError: a file is missing or unreadable, or the version is not `expected_version`.
        """
        folder = dataset_dir / VOCABULARIES_FOLDER
        encodings = load_encodings(dataset_dir, schema)
        path = folder / NORMALIZATIONS_NAME
        try:
            values = json.loads(retry(path.read_bytes, path))
            normalizations = {f.name: Normalization.model_validate(values[f.name]) for f in schema.numeric_features}
            boundaries: Boundaries = {}
            if schema.bucketed_features:
                path = folder / BOUNDARIES_NAME
                values = json.loads(path.read_bytes())
                boundaries = {f.name: tuple(map(float, values[f.name])) for f in schema.bucketed_features}
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            raise ArtifactError(f"{path} cannot be read: {error}", "run `preprocess` again") from error
        fitted = cls(schema, encodings, normalizations, boundaries)
        if expected_version not in (None, fitted.version):
            raise ArtifactError(
                f"{folder} is not the one the dataset was made with: version {fitted.version[:12]}, "
                f"expected {(expected_version or '')[:12]}",
                "restore the folder or run `preprocess` again",
            )
        return fitted


def load_encodings(dataset_dir: Path, schema: Schema) -> dict[str, Encoding]:
    """The encoding of each table: its saved vocabulary, or what the schema alone says."""
    encodings: dict[str, Encoding] = {}
    for table, owner in schema.table_owners().items():
        encodings[table] = fixed_encoding(owner) or Vocabulary.load(vocabulary_path(dataset_dir, table))
    return encodings


def as_lists(values: pa.Array, lengths: np.ndarray) -> pa.ListArray:
    """Values one row after the other as a list per row."""
    offsets = pa.array(np.append(0, np.cumsum(lengths)).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, values)
