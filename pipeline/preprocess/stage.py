"""The first pass: each part of the log is read, joined, checked and split once, and kept in a form cheap to read.

A staged part is an Arrow file of its rows by split, with the place of each text among the part's distinct texts; a file
of those texts, one record batch per embedding table; and last a JSON file with its survey, without which the part does
not exist. A later one of ids, again a batch per table, says which row each text has.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.files import explaining_space, retry, write_atomically, write_json
from pipeline.preprocess.distinct import Column, distinct_texts
from pipeline.preprocess.features import read_dense, read_sparse
from pipeline.preprocess.formats import format_of
from pipeline.preprocess.keys import key_type
from pipeline.preprocess.labels import defined_rows, read_weights, to_array
from pipeline.preprocess.log import Part, RawLog, RawRows
from pipeline.preprocess.normalize import Moments
from pipeline.preprocess.profile import LengthProfile, NumberProfile
from pipeline.preprocess.sample import QuantileSample
from pipeline.preprocess.split import time_span
from pipeline.preprocess.survey import Survey
from pipeline.preprocess.transform import as_lists
from pipeline.preprocess.values import SparseValues
from pipeline.schema import BucketedFeature, NumericFeature, Schema, TextFeature
from pipeline.shards.manifest import KEY_PREFIX, LABELS_COLUMN, SPARSE_PREFIX, SPLITS, WEIGHT_COLUMN, WEIGHTS_PREFIX

TRAIN = SPLITS.index("train")
NUMBER_PREFIX = "number_"
MAX_PART_ROWS = 1 << 40


class StagedPart(NamedTuple):
    """The files of part `number` in a folder."""

    folder: Path
    number: int

    @property
    def rows_path(self) -> Path:
        return self.folder / f"part-{self.number:05d}.arrow"

    @property
    def survey_path(self) -> Path:
        return self.folder / f"part-{self.number:05d}.json"

    @property
    def texts_path(self) -> Path:
        return self.folder / f"part-{self.number:05d}.texts.arrow"

    @property
    def ids_path(self) -> Path:
        return self.folder / f"part-{self.number:05d}.ids.arrow"

    def read_survey(self) -> Survey:
        return Survey.from_json(json.loads(self.survey_path.read_bytes()))

    def read_rows(self, first: int, num_rows: int) -> pa.Table:
        """Some rows of the part, in memory that is mapped."""
        return pa.Table.from_batches(map_batches(self.rows_path)).slice(first, num_rows)


def map_batches(path: Path) -> list[pa.RecordBatch]:
    """The record batches of a staged file, in memory that is mapped."""

    def read() -> list[pa.RecordBatch]:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            return [reader.get_batch(number) for number in range(reader.num_record_batches)]

    return retry(read, path)


def write_staged(path: Path, batches: Sequence[pa.RecordBatch]) -> None:
    """Writes a file of a staged part; only the JSON file that comes last says that it is whole."""

    def write() -> None:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batches[0].schema) as writer:
            for batch in batches:
                writer.write_batch(batch)

    with explaining_space(path, sum(batch.nbytes for batch in batches)):
        retry(write, path)


def stage_part(log: RawLog, dataset_dir: Path, folder: Path, shuffle_seed: int | None, part: Part) -> Survey:
    """Stages one part in a folder, unless an earlier attempt has, and returns its survey.

    Rows are in the order of the log within a split, or shuffled with a seed. Bad ones go to the dataset's folder.

    Raises:
        DataError: a value that cannot be used, with its file and row.
    """
    staged = StagedPart(folder, part.number)
    if staged.survey_path.exists():
        return staged.read_survey()
    rows = log.read(part)
    survey = Survey(span=time_span(rows.table, log.split))
    survey.count(("rows",), rows.splits)
    for table, missing in zip(log.tables, rows.missing, strict=True):
        survey.count(("joined_tables", table.path, "missing_keys"), rows.splits[missing])
    columns, texts = _stage_sparse(log.schema, rows, survey)
    # Numbers that no other row of the log has.
    row_numbers = part.number * MAX_PART_ROWS + np.arange(len(rows.splits))
    measured: list[NumericFeature | BucketedFeature] = [*log.schema.numeric_features, *log.schema.bucketed_features]
    for feature in measured:
        columns[NUMBER_PREFIX + feature.name] = _stage_numbers(feature, rows, row_numbers, survey)
        if isinstance(feature, BucketedFeature) and feature.boundaries is None:
            values, is_training = columns[NUMBER_PREFIX + feature.name].to_numpy(), rows.splits == TRAIN
            chosen = np.flatnonzero(is_training & ~np.isnan(values))
            survey.samples[feature.name] = QuantileSample.of(values[chosen], row_numbers[chosen])
    columns |= _stage_labels(log.schema, rows, survey)
    columns |= _stage_keys(log.schema, part, rows, survey)
    table = pa.table(columns)
    if shuffle_seed is not None or np.any(np.diff(rows.splits) < 0):
        table = table.take(pa.array(_order(rows.splits, shuffle_seed, part.number)))
    write_staged(staged.rows_path, [_one_batch(table)])
    if texts:
        write_staged(staged.texts_path, texts)
    survey.quarantine = rows.quarantine
    quarantined = dataset_dir / f"quarantine-{part.number:05d}.parquet"
    if len(rows.bad):
        write_atomically(quarantined, partial(pq.write_table, rows.bad), rows.bad.nbytes)
    write_json(staged.survey_path, survey.to_json())
    return survey


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    columns = [column.combine_chunks() for column in table.columns]
    arrays = [column.chunk(0) if isinstance(column, pa.ChunkedArray) else column for column in columns]
    return pa.RecordBatch.from_arrays(arrays, schema=table.schema)


def _order(splits: np.ndarray, shuffle_seed: int | None, number: int) -> np.ndarray:
    """The rows by split."""
    if shuffle_seed is None:
        return np.argsort(splits, kind="stable")
    shuffled = np.random.Generator(np.random.PCG64([shuffle_seed, number])).permutation(len(splits))
    order: np.ndarray = shuffled[np.argsort(splits[shuffled], kind="stable")]
    return order


def _stage_sparse(schema: Schema, rows: RawRows, survey: Survey) -> tuple[dict[str, pa.Array], list[pa.RecordBatch]]:
    """The staged columns of the features that are looked up by text, and the distinct texts of each of their tables."""
    features = [feature for feature in schema.sparse_features if not isinstance(feature, BucketedFeature)]
    read = {feature.name: _read_sparse(feature, schema, rows, survey) for feature in features}
    columns: dict[str, pa.Array] = {}
    texts = []
    for table in text_tables(schema):
        names = [feature.name for feature in features if feature.table_name == table]
        is_training = [_splits_of(read[name], rows) == TRAIN for name in names]
        own = [Column(read[name].codes, chosen) for name, chosen in zip(names, is_training, strict=True)]
        own_texts, places = distinct_texts(own)
        survey.num_distinct[table] = len(own_texts)
        texts.append(own_texts)
        for name, of_feature in zip(names, places, strict=True):
            values, weights = pa.array(of_feature, pa.int32()), read[name].weights
            lengths = read[name].lengths
            columns[SPARSE_PREFIX + name] = values if lengths is None else as_lists(values, lengths)
            if weights is not None and lengths is not None:
                columns[WEIGHTS_PREFIX + name] = as_lists(pa.array(weights), lengths)
    return columns, texts


def text_tables(schema: Schema) -> list[str]:
    """The tables whose rows are looked up by text, in the order that a staged part has them in."""
    return [table for table, owner in schema.table_owners().items() if not isinstance(owner, BucketedFeature)]


def _splits_of(values: SparseValues, rows: RawRows) -> np.ndarray:
    """The split of each value."""
    return rows.splits if values.lengths is None else np.repeat(rows.splits, values.lengths)


def _read_sparse(feature: TextFeature, schema: Schema, rows: RawRows, survey: Survey) -> SparseValues:
    values = read_sparse(rows.table, feature, rows.source, rows.first_row, schema.keys.time)
    path, splits = ("features", feature.name), _splits_of(values, rows)
    survey.count((*path, "nulls"), splits[values.codes.codes < 0])
    survey.count((*path, "values"), splits)
    if values.lengths is None:
        return values
    survey.count((*path, "null_lists"), rows.splits[values.is_null])
    survey.count((*path, "empty_lists"), rows.splits[~values.is_null & (values.lengths == 0)])
    survey.count((*path, "cut_lists"), rows.splits[values.is_cut])
    for name, counts in values.counts.items():
        survey.count((*path, name), np.repeat(rows.splits, counts))
    survey.lengths[feature.name] = LengthProfile.of(values.lengths[rows.splits == TRAIN])
    return values


def _stage_numbers(
    feature: NumericFeature | BucketedFeature, rows: RawRows, row_numbers: np.ndarray, survey: Survey
) -> pa.Array:
    numbers = read_dense(rows.table, feature, rows.source, rows.first_row)
    survey.count(("features", feature.name, "values"), rows.splits)
    survey.count(("features", feature.name, "nulls"), rows.splits[numbers.is_null])
    survey.count(("features", feature.name, "non_finite"), rows.splits[numbers.is_non_finite])
    is_training = rows.splits == TRAIN
    survey.numbers[feature.name] = NumberProfile.of(numbers.values[is_training], row_numbers[is_training])
    return pa.array(numbers.values)


def _stage_labels(schema: Schema, rows: RawRows, survey: Survey) -> dict[str, pa.Array]:
    labels = rows.labels
    defined = defined_rows(schema, labels)
    weights = read_weights(schema.weight, rows.table, rows.source, rows.first_row) if schema.weight else None
    if weights is not None:
        survey.count(("zero_weight_rows",), rows.splits[weights == 0])
    for task in schema.tasks:
        own, is_defined = labels[task.name], defined[task.name]
        survey.count(("tasks", task.name, "nulls"), rows.splits[np.isnan(own)])
        for place, name in enumerate(task.classes or ()):
            survey.count(("tasks", task.name, "classes", name), rows.splits[is_defined & (own == place)])
        if weights is not None:
            survey.count(("tasks", task.name, "zero_weight_rows"), rows.splits[is_defined & (weights == 0)])
        for place, split in enumerate(SPLITS):
            survey.labels[task.name, split] = Moments.of(own[is_defined & (rows.splits == place)])
    columns: dict[str, pa.Array] = {LABELS_COLUMN: to_array(labels)}
    return columns if weights is None else columns | {WEIGHT_COLUMN: pa.array(weights)}


def _stage_keys(schema: Schema, part: Part, rows: RawRows, survey: Survey) -> dict[str, pa.ChunkedArray]:
    columns = {}
    is_csv = format_of(part.partition.source, part.partition.path) == "csv"
    for role, name in schema.keys.model_dump().items():
        if name:
            column = rows.table.column(name)
            survey.key_types[role] = [key_type(column, is_csv, f"key {role}: column {name!r}")]
            columns[KEY_PREFIX + role] = column
    return columns
