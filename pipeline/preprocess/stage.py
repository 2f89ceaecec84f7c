"""The first pass: each part of the log is read, joined, checked and split once, and kept in a form cheap to read.

A staged part is an Arrow file of its rows by split, with the place of each text among the part's distinct texts; a file
of those texts, one record batch per embedding table; if splits are to be disjoint, a file of the values that must be, a
batch per column; and last a JSON file with its survey, without which the part does not exist. A later one of ids, again
a batch per table, says which row each text has.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.feature_kinds import BucketedFeature, NumericFeature, TextFeature
from pipeline.files import explaining_space, retry, write_atomically, write_json
from pipeline.preprocess.columns.hashing import hash64
from pipeline.preprocess.columns.keys import key_type
from pipeline.preprocess.columns.labels import defined_rows, read_weights, to_array
from pipeline.preprocess.columns.text import as_codes
from pipeline.preprocess.columns.values import SparseValues
from pipeline.preprocess.features.distinct import Column, distinct_texts
from pipeline.preprocess.features.kinds import read_dense, read_sparse
from pipeline.preprocess.features.normalize import Moments, clip_and_log
from pipeline.preprocess.log import Part, RawLog, RawRows
from pipeline.preprocess.profiles.profile import LengthProfile, NumberProfile
from pipeline.preprocess.profiles.sample import QuantileSample, RowOrder
from pipeline.preprocess.profiles.survey import Survey
from pipeline.preprocess.raw_files.formats import format_of
from pipeline.preprocess.split import time_span
from pipeline.preprocess.transform import as_lists
from pipeline.schema import Schema
from pipeline.shards.manifest import KEY_PREFIX, LABELS_COLUMN, SPARSE_PREFIX, SPLITS, WEIGHT_COLUMN, WEIGHTS_PREFIX

TRAIN = SPLITS.index("train")
NUMBER_PREFIX = "number_"
ROWS = ("rows",)
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
    def keys_path(self) -> Path:
        return self.folder / f"part-{self.number:05d}.keys.arrow"

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
    survey = Survey(span=time_span(rows.table, log.split), num_outside=rows.num_outside)
    survey.count(ROWS, rows.splits)
    for table, counts in zip(log.tables, rows.joins, strict=True):
        for name, is_counted in counts.items():
            survey.count(("joined_tables", table.path, name), rows.splits[is_counted])
    columns, texts = _stage_sparse(log.schema, rows, survey)
    training = np.flatnonzero(rows.splits == TRAIN)
    order = RowOrder.of(part.number * MAX_PART_ROWS + training)
    measured: list[NumericFeature | BucketedFeature] = [*log.schema.numeric_features, *log.schema.bucketed_features]
    for feature in measured:
        columns[NUMBER_PREFIX + feature.name] = _stage_numbers(feature, rows, training, order, survey)
    columns |= _stage_labels(log.schema, rows, survey)
    columns |= _stage_keys(log.schema, part, rows, survey)
    table = pa.table(columns)
    if shuffle_seed is not None or np.any(np.diff(rows.splits) < 0):
        table = table.take(pa.array(_order(rows.splits, shuffle_seed, part.number)))
    write_staged(staged.rows_path, [_one_batch(table)])
    if texts:
        write_staged(staged.texts_path, texts)
    if log.split.disjoint:
        write_staged(staged.keys_path, _stage_disjoint(log.split.disjoint, rows, survey))
    survey.quarantine = rows.quarantine
    quarantined = dataset_dir / f"quarantine-{part.number:05d}.parquet"
    if len(rows.bad):
        write_atomically(quarantined, partial(pq.write_table, rows.bad), rows.bad.nbytes)
    write_json(staged.survey_path, survey.to_json())
    return survey


def _stage_disjoint(columns: Sequence[str], rows: RawRows, survey: Survey) -> list[pa.RecordBatch]:
    """Per column its distinct values in the order of their hash, and for each split whether one of its rows has it."""
    batches = []
    for column in columns:
        codes, texts = as_codes(rows.table.column(column), f"column {column!r}, which is to keep the splits apart,")
        hashes = hash64(texts)
        order = np.argsort(hashes)
        values = {"value": texts.take(pa.array(order)), "hash": pa.array(hashes[order])}
        for place, split in enumerate(SPLITS):
            counts = np.bincount(codes[rows.splits == place] + 1, minlength=1 + len(texts))[1:]
            values[split] = pa.array((counts > 0)[order].astype(np.uint8))
        batches.append(pa.RecordBatch.from_pydict(values))
        survey.num_keys[column] = len(texts)
    return batches


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
        own = [Column(read[name].codes, _splits_of(read[name], rows) == TRAIN) for name in names]
        own_texts, places = distinct_texts(own)
        survey.num_distinct[table] = len(own_texts)
        texts.append(own_texts)
        for name, of_feature in zip(names, places, strict=True):
            lengths, weights = read[name].lengths, read[name].weights
            columns[SPARSE_PREFIX + name] = of_feature if lengths is None else as_lists(of_feature, lengths)
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
    if values.lengths is None:
        survey.repeat(ROWS, (*path, "values"))
        return values
    survey.count((*path, "values"), splits)
    survey.count((*path, "null_lists"), rows.splits[values.is_null])
    survey.count((*path, "empty_lists"), rows.splits[~values.is_null & (values.lengths == 0)])
    survey.count((*path, "cut_lists"), rows.splits[values.is_cut])
    for name, counts in values.counts.items():
        survey.count((*path, name), np.repeat(rows.splits, counts))
    survey.lengths[feature.name] = LengthProfile.of(values.lengths[rows.splits == TRAIN])
    return values


def _stage_numbers(
    feature: NumericFeature | BucketedFeature, rows: RawRows, training: np.ndarray, order: RowOrder, survey: Survey
) -> pa.Array:
    """The numbers as float32 where it holds each of them, else as float64; `training` are the training rows."""
    numbers = read_dense(rows.table, feature, rows.source, rows.first_row)
    survey.repeat(ROWS, ("features", feature.name, "values"))
    survey.count(("features", feature.name, "nulls"), rows.splits[numbers.is_null])
    survey.count(("features", feature.name, "non_finite"), rows.splits[numbers.is_non_finite])
    known = numbers.values if len(training) == len(rows.splits) else numbers.values[training]
    inputs = clip_and_log(known, feature) if isinstance(feature, NumericFeature) else known
    survey.numbers[feature.name] = NumberProfile.of(inputs, order)
    if isinstance(feature, BucketedFeature) and feature.boundaries is None:
        survey.samples[feature.name] = QuantileSample.of(inputs, order)
    narrow = numbers.values.astype(np.float32)
    is_exact = ((narrow == numbers.values) | np.isnan(narrow)).all()
    return pa.array(narrow if is_exact else numbers.values)


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
