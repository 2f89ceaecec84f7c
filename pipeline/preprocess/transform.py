"""Raw columns to the encoded columns of a shard, with what was fitted on the training rows."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from pipeline.errors import ArtifactError, DataError
from pipeline.files import retry, write_json
from pipeline.preprocess.normalize import Normalization, Numbers, clip_and_log, parse_numbers, standardise
from pipeline.preprocess.sources import file_of, locate
from pipeline.preprocess.text import Codes, as_codes, is_list
from pipeline.preprocess.vocabulary import Encoding, HashBuckets, Vocabulary, encode
from pipeline.schema import (
    CategoricalFeature,
    HistoryFeature,
    MultiValuedFeature,
    NumericFeature,
    Schema,
    SparseFeature,
)
from pipeline.shards.manifest import shard_schema
from pipeline.shards.vocabularies import VOCABULARIES_FOLDER, vocabulary_path

ListFeature = MultiValuedFeature | HistoryFeature

NORMALIZATIONS_NAME = "normalizations.json"


class Lists(NamedTuple):
    """A column of lists: row r has `lengths[r]` of the flat `values`, one row after the other."""

    values: Codes
    lengths: np.ndarray
    is_null: np.ndarray
    is_cut: np.ndarray


def read_lists(table: pa.Table, feature: ListFeature, source: str) -> Lists:
    """The lists of a feature, cut to `max_length`; a text is split at `delimiter`, its empty pieces dropped.

    Raises:
        DataError: the column holds no lists, and there is no delimiter to split texts at.
    """
    column = table.column(feature.source_column)
    what = _describe(table, feature, source)
    if is_list(column.type):
        flat = pa.chunked_array([chunk.flatten() for chunk in column.chunks], column.type.value_type)
        lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0)).astype(np.int64)
        kept, places = _cut(lengths, np.cumsum(lengths) - lengths, feature.max_length)
        # Cut before the texts are made: a row may list millions of values.
        codes = as_codes(flat.take(pa.array(places)), what)
    elif feature.delimiter is not None:
        pieces, lengths, starts = _split_texts(as_codes(column, what), feature.delimiter)
        kept, places = _cut(lengths, starts, feature.max_length)
        codes = Codes(pieces.codes[places], pieces.texts)
    else:
        raise DataError(
            f"{what} has type {column.type}, not a list",
            f"add the `delimiter` that separates the values of {feature.name!r}, or give a list column",
        )
    return Lists(codes, kept, np.asarray(pc.is_null(column)), lengths > feature.max_length)


def _cut(lengths: np.ndarray, starts: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Of lists in a flat array, how many values of each are kept, and the places of those."""
    kept = np.minimum(lengths, max_length)
    return kept, np.repeat(starts - (np.cumsum(kept) - kept), kept) + np.arange(kept.sum())


def _split_texts(rows: Codes, delimiter: str) -> tuple[Codes, np.ndarray, np.ndarray]:
    """The pieces of each distinct text, and per row the number of its pieces and the place of the first."""
    split = pc.split_pattern(rows.texts, delimiter)
    pieces = pc.utf8_trim_whitespace(split.flatten())
    is_piece = np.asarray(pc.greater(pc.binary_length(pieces), 0))
    ends = np.cumsum(is_piece)
    bounds = np.append(0, ends)[split.offsets.to_numpy()]
    lengths, starts = np.append(np.diff(bounds), 0), np.append(bounds[:-1], 0)
    return as_codes(pieces.filter(pa.array(is_piece)), "pieces"), lengths[rows.codes], starts[rows.codes]


def read_numbers(table: pa.Table, feature: NumericFeature, source: str, first_row: int) -> Numbers:
    """The numbers of a feature after clip and log1p."""
    column = feature.source_column
    numbers = parse_numbers(table, column, f"feature {feature.name!r}", source, first_row)
    values = clip_and_log(numbers.values, feature, lambda row: locate(table, column, row, source, first_row))
    return numbers._replace(values=values)


def read_codes(table: pa.Table, feature: CategoricalFeature, source: str) -> Codes:
    return as_codes(table.column(feature.source_column), _describe(table, feature, source))


def _describe(table: pa.Table, feature: SparseFeature, source: str) -> str:
    column = feature.source_column
    return f"feature {feature.name!r}: column {column!r} of {file_of(table, column, source)}"


@dataclass(frozen=True)
class FittedTransform:
    """What turns raw columns to encoded ones: an encoding per embedding table, a normalization per numeric feature."""

    schema: Schema
    encodings: dict[str, Encoding]
    normalizations: dict[str, Normalization]

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
        return hashlib.sha256(json.dumps(fitted, sort_keys=True).encode()).hexdigest()

    def encode_features(self, table: pa.Table, source: str, first_row: int = 0) -> pa.Table:
        """The sparse columns and `dense` of a shard, in its order, for raw rows with the features' columns.

        `source` and `first_row` say in messages where the first row of `table` lies. No label is needed.

        Raises:
            DataError: a column has the wrong type, or a text is no number.
        """
        columns = [self._encode_sparse(table, feature, source) for feature in self.schema.sparse_features]
        if self.schema.numeric_features:
            columns.append(self._encode_dense(table, source, first_row))
        fields = list(shard_schema(self.schema, self.table_rows, {}))[: len(columns)]
        # The ids fit: id_type was chosen by the number of rows.
        arrays = [column.cast(field.type, safe=False) for column, field in zip(columns, fields, strict=True)]
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))

    def _encode_sparse(self, table: pa.Table, feature: SparseFeature, source: str) -> pa.Array:
        encoding = self.encodings[feature.table_name]
        if isinstance(feature, CategoricalFeature):
            return pa.array(encode(read_codes(table, feature, source), encoding))
        lists = read_lists(table, feature, source)
        offsets = pa.array(np.append(0, np.cumsum(lists.lengths))).cast(pa.int32())
        return pa.ListArray.from_arrays(offsets, pa.array(encode(lists.values, encoding)))

    def _encode_dense(self, table: pa.Table, source: str, first_row: int) -> pa.Array:
        numbers = {f.name: read_numbers(table, f, source, first_row).values for f in self.schema.numeric_features}
        return self.dense_of(numbers, table.num_rows)

    def dense_of(self, numbers: Mapping[str, np.ndarray], num_rows: int) -> pa.Array:
        """The `dense` column from the numbers of each feature after clip and log1p, float64 with NaN for null."""
        inputs = np.zeros((num_rows, len(self.schema.dense_names)), np.float32)
        place = 0
        for feature in self.schema.numeric_features:
            values = numbers[feature.name]
            is_null = np.isnan(values)
            if feature.standardise:
                values = standardise(values, self.normalizations[feature.name])
            inputs[:, place] = np.where(is_null, 0.0, values)
            place += 1
            if feature.null_indicator:
                inputs[:, place] = is_null
                place += 1
        return pa.FixedSizeListArray.from_arrays(pa.array(inputs.reshape(-1)), inputs.shape[1])

    def save_normalizations(self, dataset_dir: Path) -> None:
        """Writes the normalizations beside the vocabularies."""
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
        encodings: dict[str, Encoding] = {
            table: HashBuckets(owner.num_hash_buckets)
            if owner.num_hash_buckets
            else Vocabulary.load(vocabulary_path(dataset_dir, table))
            for table, owner in schema.table_owners().items()
        }
        path = folder / NORMALIZATIONS_NAME
        try:
            values = json.loads(retry(path.read_bytes, path))
            normalizations = {f.name: Normalization.model_validate(values[f.name]) for f in schema.numeric_features}
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            raise ArtifactError(f"{path} cannot be read: {error}", "run `preprocess` again") from error
        fitted = cls(schema, encodings, normalizations)
        if expected_version not in (None, fitted.version):
            raise ArtifactError(
                f"{folder} is not the one the dataset was made with: version {fitted.version[:12]}, "
                f"expected {(expected_version or '')[:12]}",
                "restore the folder or run `preprocess` again",
            )
        return fitted
