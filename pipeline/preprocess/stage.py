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
from pipeline.preprocess.formats import format_of
from pipeline.preprocess.keys import key_type
from pipeline.preprocess.labels import defined_rows, read_weights, to_array
from pipeline.preprocess.log import Part, RawLog, RawRows
from pipeline.preprocess.normalize import Moments
from pipeline.preprocess.profile import LengthProfile, NumberProfile
from pipeline.preprocess.split import time_span
from pipeline.preprocess.survey import Survey
from pipeline.preprocess.text import Codes
from pipeline.preprocess.transform import read_codes, read_lists, read_numbers
from pipeline.schema import CategoricalFeature, NumericFeature, Schema, SparseFeature
from pipeline.shards.manifest import KEY_PREFIX, LABELS_COLUMN, SPARSE_PREFIX, SPLITS, WEIGHT_COLUMN

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
    for feature in log.schema.numeric_features:
        columns[NUMBER_PREFIX + feature.name] = _stage_numbers(feature, rows, row_numbers, survey)
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
    """The staged columns of the sparse features, and the distinct texts of each table."""
    read = {feature.name: _read_sparse(feature, rows, survey) for feature in schema.sparse_features}
    columns: dict[str, pa.Array] = {}
    texts = []
    for table in schema.table_owners():
        names = [feature.name for feature in schema.sparse_features if feature.table_name == table]
        own_texts, places = distinct_texts([Column(read[name][0], read[name][1] == TRAIN) for name in names])
        survey.num_distinct[table] = len(own_texts)
        texts.append(own_texts)
        for name, own in zip(names, places, strict=True):
            lengths = read[name][2]
            values = pa.array(own, pa.int32())
            if lengths is not None:
                offsets = pa.array(np.append(0, np.cumsum(lengths)).astype(np.int32))
                values = pa.ListArray.from_arrays(offsets, values)
            columns[SPARSE_PREFIX + name] = values
    return columns, texts


def _read_sparse(feature: SparseFeature, rows: RawRows, survey: Survey) -> tuple[Codes, np.ndarray, np.ndarray | None]:
    """Counts, and returns the values of a feature, the split of each, and how many each row has if not one."""
    path = ("features", feature.name)
    if isinstance(feature, CategoricalFeature):
        codes = read_codes(rows.table, feature, rows.source)
        survey.count((*path, "nulls"), rows.splits[codes.codes < 0])
        survey.count((*path, "values"), rows.splits)
        return codes, rows.splits, None
    lists = read_lists(rows.table, feature, rows.source)
    splits = np.repeat(rows.splits, lists.lengths)
    for name, counted in (
        ("null_lists", rows.splits[lists.is_null]),
        ("empty_lists", rows.splits[~lists.is_null & (lists.lengths == 0)]),
        ("cut_lists", rows.splits[lists.is_cut]),
        ("nulls", splits[lists.values.codes < 0]),
        ("values", splits),
    ):
        survey.count((*path, name), counted)
    survey.lengths[feature.name] = LengthProfile.of(lists.lengths[rows.splits == TRAIN])
    return lists.values, splits, lists.lengths


def _stage_numbers(feature: NumericFeature, rows: RawRows, row_numbers: np.ndarray, survey: Survey) -> pa.Array:
    numbers = read_numbers(rows.table, feature, rows.source, rows.first_row)
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
