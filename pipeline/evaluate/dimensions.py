"""The dimensions of slices: what the configuration may name, and how each is read from encoded rows.

Shapes: N rows.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa

from pipeline.config import nearest, or_else
from pipeline.errors import ConfigError
from pipeline.evaluate.config import SliceConfig
from pipeline.evaluate.slices import Dimension, Numbers, Read, range_names
from pipeline.feature_kinds import (
    NULL_ROW,
    NUM_RESERVED_ROWS,
    UNSEEN_ROW,
    BucketedFeature,
    CategoricalFeature,
    Feature,
    NumericFeature,
    TimePartFeature,
)
from pipeline.preprocess.columns.numbers import parse_numbers
from pipeline.preprocess.columns.text import Codes, as_codes
from pipeline.preprocess.columns.times import MICROSECONDS, MICROSECONDS_PER_DAY, parse_times
from pipeline.preprocess.features.normalize import Normalization
from pipeline.preprocess.features.vocabulary import Vocabulary
from pipeline.preprocess.transform import FittedTransform
from pipeline.schema import Schema
from pipeline.shards.manifest import DENSE_COLUMN, KEY_PREFIX, SPARSE_PREFIX

DAY, NEW_USER, NEW_ITEM = "day", "new_user", "new_item"
DEFAULT_BUCKETS, DEFAULT_TOP = 5, 20
UNSEEN, NEW, KNOWN = "(unseen)", "new", "known"
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
# The years 2000 to 2099. A number lies in them in one unit at most: those of two units do not meet.
FIRST_SECOND, LAST_SECOND = 946_684_800, 4_102_444_800


def check_slices(schema: Schema, slices: Sequence[SliceConfig] | None) -> list[SliceConfig]:
    """The slices of a configuration; where it says nothing, those that cost next to nothing and that the keys allow.

    Raises:
        ConfigError: a column is none, or has not one known value per row, or its settings do not fit it.
    """
    if slices is None:
        usual = [SliceConfig(column=name) for name in (DAY, NEW_USER, NEW_ITEM)]
        return [one for one in usual if _special_fault(schema, one.column) is None]
    for place, one in enumerate(slices):
        if one.column in [earlier.column for earlier in slices[:place]]:
            raise ConfigError(f"evaluate.slices names {one.column!r} twice", "remove one of the two")
        _check_slice(schema, one)
    return list(slices)


def _check_slice(schema: Schema, one: SliceConfig) -> None:
    what = f"evaluate.slices names {one.column!r}"
    feature = _feature(schema, one.column)
    if one.column in schema.keys.columns() or feature is not None:
        if fault := _fault(schema, one.column, feature):
            raise ConfigError(f"{what}, {fault[0]}", fault[1])
        is_number = isinstance(feature, NumericFeature) and one.column not in schema.keys.columns()
    elif one.column in (DAY, NEW_USER, NEW_ITEM):
        if fault := _special_fault(schema, one.column):
            raise ConfigError(f"{what}, {fault[0]}", fault[1])
        is_number = False
    else:
        choices = [*(f.name for f in schema.features), *schema.keys.columns(), DAY, NEW_USER, NEW_ITEM]
        raise ConfigError(
            f"{what}, which is no feature or key of the schema", or_else(nearest(one.column, choices), "remove it")
        )
    if is_number and one.top:
        raise ConfigError(f"{what} with top, and it is numeric", "give `buckets`, the number of its ranges")
    if not is_number and one.buckets:
        raise ConfigError(f"{what} with buckets, and it is not numeric", "give `top`, how many of its values are shown")


def _feature(schema: Schema, name: str) -> Feature | None:
    return next((feature for feature in schema.features if feature.name == name), None)


def _fault(schema: Schema, name: str, feature: Feature | None) -> tuple[str, str] | None:
    """Why a key column or a feature gives no slices, and what to do, if it does not."""
    if name == schema.keys.time:
        return "which is the time of a row", f"write {DAY}, or give the schema a feature of kind time_part"
    if name == schema.keys.row:
        return "which is another one in each row", "choose another column"
    if name in schema.keys.columns() or isinstance(feature, NumericFeature | BucketedFeature | TimePartFeature):
        return None
    if not isinstance(feature, CategoricalFeature):
        assert feature is not None
        several = "hashes of several columns" if feature.kind == "crossed" else "several values in a row"
        return f"a feature of kind {feature.kind}, which has {several}", "choose a feature with one value per row"
    if schema.table_owners()[feature.table_name].fixed_rows is not None:
        return (
            "whose values are hashed, and not known any more",
            "remove its num_hash_buckets, or choose another column",
        )
    return None


def _special_fault(schema: Schema, name: str) -> tuple[str, str] | None:
    if name == DAY:
        fault = "and the schema has no key `time`", "name the column with the rows' time as schema.keys.time"
        return None if schema.keys.time else fault
    role = name.removeprefix("new_")
    if getattr(schema.keys, role) is None:
        return f"and the schema has no key `{role}`", f"name its column as schema.keys.{role}"
    if _key_feature(schema, role) is None:
        column = getattr(schema.keys, role)
        return f"and no categorical feature with a vocabulary is read from {column!r}", "add one, or remove the slice"
    return None


def _key_feature(schema: Schema, role: str) -> CategoricalFeature | None:
    """The feature whose vocabulary says which values of a key were seen in training."""
    owners = schema.table_owners()
    features = [feature for feature in schema.features if isinstance(feature, CategoricalFeature)]
    own = [feature for feature in features if feature.source_column == getattr(schema.keys, role)]
    return next((feature for feature in own if owners[feature.table_name].fixed_rows is None), None)


# --- reading the dimensions of encoded rows


def open_dimensions(
    schema: Schema, slices: Sequence[SliceConfig], fitted: FittedTransform, known_rows: Mapping[str, int]
) -> list[Dimension]:
    """The dimensions that checked slices mean of encoded rows.

    `known_rows` is how many rows of each table the model knows.
    """
    return [
        Dimension(
            one.column, _reader(schema, one.column, fitted, known_rows), top_of(one), one.buckets or DEFAULT_BUCKETS
        )
        for one in slices
    ]


def top_of(one: SliceConfig) -> int | None:
    return one.top or (None if one.column == DAY else DEFAULT_TOP)


def _reader(schema: Schema, name: str, fitted: FittedTransform, known_rows: Mapping[str, int]) -> Read:
    roles = {column: role for role, column in schema.keys.model_dump().items() if column}
    if name in roles:
        return partial(read_texts, KEY_PREFIX + roles[name])
    match _feature(schema, name):
        case NumericFeature() as feature:
            place = schema.dense_names.index(name)
            return partial(_read_numbers, feature, place, fitted.normalizations[name])
        case CategoricalFeature() as feature:
            vocabulary = fitted.encodings[feature.table_name]
            assert isinstance(vocabulary, Vocabulary)
            return partial(_read_ids, SPARSE_PREFIX + name, vocabulary)
        case TimePartFeature() | BucketedFeature() as feature:
            return partial(_read_places, SPARSE_PREFIX + name, pa.array(_place_names(feature, fitted), pa.string()))
    if name == DAY:
        return partial(read_days, KEY_PREFIX + "time")
    known = _key_feature(schema, name.removeprefix("new_"))
    assert known is not None
    return partial(_read_newness, SPARSE_PREFIX + known.name, known_rows[known.table_name])


def _place_names(feature: TimePartFeature | BucketedFeature, fitted: FittedTransform) -> list[str]:
    if isinstance(feature, BucketedFeature):
        return range_names(fitted.boundaries[feature.name])
    numbers = range(fitted.table_rows[feature.table_name] - NUM_RESERVED_ROWS)
    if feature.part == "weekday":
        return [WEEKDAYS[number] for number in numbers]
    return [str(number + (feature.part != "hour")) for number in numbers]


def read_texts(column: str, table: pa.Table) -> Codes:
    return as_codes(table.column(column), f"column {column!r}")


def read_days(column: str, table: pa.Table) -> Codes:
    """The day of each time in UTC, such as 2025-01-12; none where a number is no time of the years 2000 to 2099."""
    times = table.column(column)
    if pa.types.is_integer(times.type) or pa.types.is_floating(times.type):
        numbers = np.asarray(times.cast(pa.float64(), safe=False).fill_null(np.nan))
        moments = np.full(len(numbers), np.nan)
        for microseconds in MICROSECONDS.values():
            scaled = numbers * microseconds
            is_time = (scaled >= FIRST_SECOND * 1e6) & (scaled < LAST_SECOND * 1e6)
            moments[is_time] = scaled[is_time]
        has_time = ~np.isnan(moments)
        microseconds_N = np.where(has_time, moments, 0).astype(np.int64)
    else:
        parsed = parse_times(times, "seconds", f"column {column!r}")
        has_time = ~(parsed.is_null | parsed.is_wrong)
        microseconds_N = parsed.microseconds
    days, places = np.unique(microseconds_N // MICROSECONDS_PER_DAY, return_inverse=True)
    texts = pa.array([str(day) for day in days.astype("datetime64[D]")], pa.string())
    return Codes(np.where(has_time, places, -1).astype(np.int32), texts)


def _read_ids(column: str, vocabulary: Vocabulary, table: pa.Table) -> Codes:
    ids, places = np.unique(np.asarray(table.column(column)), return_inverse=True)
    values = pa.chunked_array([batch.column("value") for batch in vocabulary.batches], pa.string())
    known = values.take(pa.array(ids[ids >= NUM_RESERVED_ROWS] - NUM_RESERVED_ROWS)).combine_chunks()
    reserved = [UNSEEN if row == UNSEEN_ROW else "" for row in ids[ids < NUM_RESERVED_ROWS]]
    texts = pa.concat_arrays([pa.array(reserved, pa.string()), known])
    return Codes(np.where(ids == NULL_ROW, -1, np.arange(len(ids)))[places].astype(np.int32), texts)


def _read_places(column: str, names: pa.StringArray, table: pa.Table) -> Codes:
    return Codes(np.maximum(np.asarray(table.column(column)) - NUM_RESERVED_ROWS, -1).astype(np.int32), names)


def _read_newness(column: str, known_rows: int, table: pa.Table) -> Codes:
    ids = np.asarray(table.column(column))
    is_new = (ids == UNSEEN_ROW) | (ids >= known_rows)
    return Codes(np.where(ids == NULL_ROW, -1, is_new).astype(np.int32), pa.array([KNOWN, NEW]))


def _read_numbers(feature: NumericFeature, place: int, normalization: Normalization, table: pa.Table) -> Numbers:
    """The numbers that dense inputs stand for, after clip; as near as float32 keeps them, and in their order.

    A null is known where the feature has a null indicator; elsewhere it counts as what it was filled with.
    """
    dense = table.column(DENSE_COLUMN).combine_chunks()
    inputs = dense.flatten().to_numpy().reshape(len(dense), -1)
    numbers = inputs[:, place].astype(np.float64)
    if feature.standardise:
        numbers = numbers * normalization.deviation + normalization.mean
    if feature.log1p:
        numbers = np.expm1(numbers)
    return np.where(inputs[:, place + 1] == 1, np.nan, numbers) if feature.null_indicator else numbers


def read_raw_numbers(column: str, table: pa.Table) -> Numbers:
    """The numbers of a raw column, NaN for what is none."""
    return parse_numbers(table, column, f"slices of {column!r}", "the table").values
