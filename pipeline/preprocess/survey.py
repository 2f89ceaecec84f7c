"""The first pass: what one part of the log tells, and the sum over all parts that the transform is fitted on."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline.preprocess.formats import format_of
from pipeline.preprocess.keys import key_type, unify
from pipeline.preprocess.labels import defined_rows, read_labels, read_weights
from pipeline.preprocess.log import Part, RawLog, RawRows
from pipeline.preprocess.normalize import Moments
from pipeline.preprocess.split import TimeSpan, time_span
from pipeline.preprocess.text import Codes
from pipeline.preprocess.transform import FittedTransform, ListFeature, read_codes, read_lists, read_numbers
from pipeline.preprocess.vocabulary import Encoding, HashBuckets, ValueCounts, Vocabulary, count_values
from pipeline.schema import CategoricalFeature, NumericFeature, Schema
from pipeline.shards.manifest import SPLITS, Split

TRAIN = SPLITS.index("train")

# A count is filed under the path that it has in statistics.json.
Counts = Counter[tuple[str, ...]]


@dataclass
class Survey:
    """Counts over all rows of a part by split; value counts and moments over its training rows only."""

    counts: Counts = field(default_factory=Counter)
    values: list[tuple[str, pa.Table]] = field(default_factory=list)
    numbers: dict[str, Moments] = field(default_factory=dict)
    labels: dict[tuple[str, Split], Moments] = field(default_factory=dict)
    key_types: dict[str, pa.DataType | None] = field(default_factory=dict)
    span: TimeSpan | None = None


def survey_part(log: RawLog, part: Part) -> Survey:
    """Reads, joins and splits one part, checks its labels and numbers, and counts.

    Raises:
        DataError: a value that cannot be used, with its file and row.
    """
    rows = log.read(part)
    survey = Survey(span=time_span(rows.table, log.split))
    _count(survey.counts, ("rows",), rows.splits)
    for table, missing in zip(log.tables, rows.missing, strict=True):
        _count(survey.counts, ("joined_tables", table.path, "missing_keys"), rows.splits[missing])
    hashed = {table for table, owner in log.schema.table_owners().items() if owner.num_hash_buckets}
    for feature in log.schema.features:
        if isinstance(feature, NumericFeature):
            _survey_numeric(survey, feature, rows)
            continue
        if isinstance(feature, CategoricalFeature):
            codes, splits = _survey_categorical(survey, feature, rows)
        else:
            codes, splits = _survey_lists(survey, feature, rows)
        if feature.table_name not in hashed:
            training = Codes(codes.codes[splits == TRAIN], codes.texts)
            survey.values.append((feature.table_name, count_values(training)))
    _survey_labels(survey, log.schema, rows)
    for role, column in log.schema.keys.model_dump().items():
        if column:
            is_csv = format_of(part.partition.source, part.partition.path) == "csv"
            survey.key_types[role] = key_type(rows.table.column(column), is_csv, f"key {role}: column {column!r}")
    return survey


def _count(counts: Counts, path: tuple[str, ...], splits: np.ndarray) -> None:
    """Adds, under `path` and each split, how often the split occurs."""
    for split, count in zip(SPLITS, np.bincount(splits, minlength=len(SPLITS)), strict=True):
        counts[(*path, split)] += int(count)


def _survey_categorical(survey: Survey, feature: CategoricalFeature, rows: RawRows) -> tuple[Codes, np.ndarray]:
    """Counts, and returns the values and the split of each."""
    codes = read_codes(rows.table, feature, rows.source)
    _count(survey.counts, ("features", feature.name, "nulls"), rows.splits[codes.codes < 0])
    _count(survey.counts, ("features", feature.name, "values"), rows.splits)
    return codes, rows.splits


def _survey_lists(survey: Survey, feature: ListFeature, rows: RawRows) -> tuple[Codes, np.ndarray]:
    """Counts, and returns the values of all lists and the split of each value."""
    lists = read_lists(rows.table, feature, rows.source)
    splits = np.repeat(rows.splits, lists.lengths)
    for name, counted in (
        ("null_lists", rows.splits[lists.is_null]),
        ("empty_lists", rows.splits[~lists.is_null & (lists.lengths == 0)]),
        ("cut_lists", rows.splits[lists.is_cut]),
        ("nulls", splits[lists.values.codes < 0]),
        ("values", splits),
    ):
        _count(survey.counts, ("features", feature.name, name), counted)
    return lists.values, splits


def _survey_numeric(survey: Survey, feature: NumericFeature, rows: RawRows) -> None:
    numbers = read_numbers(rows.table, feature, rows.source, rows.first_row)
    _count(survey.counts, ("features", feature.name, "nulls"), rows.splits[numbers.is_null])
    _count(survey.counts, ("features", feature.name, "non_finite"), rows.splits[numbers.is_non_finite])
    training = numbers.values[rows.splits == TRAIN]
    survey.numbers[feature.name] = Moments.of(training[~np.isnan(training)])


def _survey_labels(survey: Survey, schema: Schema, rows: RawRows) -> None:
    labels = read_labels(schema, rows.table, rows.source, rows.first_row)
    defined = defined_rows(schema, labels)
    weights = read_weights(schema.weight, rows.table, rows.source, rows.first_row) if schema.weight else None
    if weights is not None:
        _count(survey.counts, ("zero_weight_rows",), rows.splits[weights == 0])
    for task in schema.tasks:
        own, is_defined = labels[task.name], defined[task.name]
        _count(survey.counts, ("tasks", task.name, "nulls"), rows.splits[np.isnan(own)])
        for place, name in enumerate(task.classes or ()):
            _count(survey.counts, ("tasks", task.name, "classes", name), rows.splits[is_defined & (own == place)])
        if weights is not None:
            _count(survey.counts, ("tasks", task.name, "zero_weight_rows"), rows.splits[is_defined & (weights == 0)])
        for place, split in enumerate(SPLITS):
            survey.labels[task.name, split] = Moments.of(own[is_defined & (rows.splits == place)])


class Findings:
    """The sum of the surveys of all parts, added in their order, so that it does not depend on who made them."""

    def __init__(self) -> None:
        self.counts: Counts = Counter()
        self.values: dict[str, ValueCounts] = {}
        self.numbers: dict[str, Moments] = {}
        self.labels: dict[tuple[str, Split], Moments] = {}
        self.span: TimeSpan | None = None
        self._key_types: dict[str, list[pa.DataType | None]] = {}

    def add(self, survey: Survey) -> None:
        self.counts.update(survey.counts)
        for table, counts in survey.values:
            self.values.setdefault(table, ValueCounts()).add(counts)
        for name, moments in survey.numbers.items():
            self.numbers[name] = self.numbers.get(name, Moments()).merge(moments)
        for key, moments in survey.labels.items():
            self.labels[key] = self.labels.get(key, Moments()).merge(moments)
        for role, type_ in survey.key_types.items():
            self._key_types.setdefault(role, []).append(type_)
        if survey.span:
            self.span = self.span.merge(survey.span) if self.span else survey.span

    def num_rows(self, split: Split) -> int:
        return self.counts["rows", split]

    @property
    def key_types(self) -> dict[str, pa.DataType]:
        """The Arrow type of each key that the schema sets, by role."""
        return {role: unify(types) for role, types in self._key_types.items()}

    def fit(self, schema: Schema) -> FittedTransform:
        """The transform that the training rows make."""
        encodings: dict[str, Encoding] = {}
        for table, owner in schema.table_owners().items():
            if owner.num_hash_buckets:
                encodings[table] = HashBuckets(owner.num_hash_buckets)
            else:
                encodings[table] = Vocabulary.select(self.values[table].total(), owner.min_count, owner.max_size)
        normalizations = {name: moments.normalization() for name, moments in self.numbers.items()}
        return FittedTransform(schema, encodings, normalizations)
