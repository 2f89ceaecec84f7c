"""The data contract: what the columns and rows of the raw log must hold, and which rows do not.

A bad row has one reason, the first of these that holds: a column of the contract, then what the schema needs of its
inputs and labels, then labels that cannot be. So the counts by reason add up to the rows.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import nearest
from pipeline.errors import DataError
from pipeline.feature_kinds import BucketedFeature, NumericFeature
from pipeline.preprocess.columns.labels import impossible_rows, judge_labels, judge_weights, read_labels, show_value
from pipeline.preprocess.columns.numbers import numeric_texts, parse_numbers, unparsable
from pipeline.preprocess.columns.text import as_codes, as_text, is_list, is_text
from pipeline.preprocess.config import ColumnContract, ContractConfig, SplitConfig
from pipeline.preprocess.features.kinds import judge_dense, judge_sparse
from pipeline.preprocess.raw_files.sources import file_of
from pipeline.preprocess.split import deciding_columns
from pipeline.schema import Schema

# Values or reasons in one message.
MAX_LISTED = 8

_FITS = {
    "integer": (pa.types.is_integer,),
    "number": (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal),
    "text": (is_text,),
    "boolean": (pa.types.is_boolean,),
    "time": (pa.types.is_temporal,),
    "list": (is_list,),
}
_ARTICLES = {"integer": "an integer", "list": "a list"}


class Rule(NamedTuple):
    """One rule on one column, the rows (bool) that break it, and what to do about them."""

    is_broken: np.ndarray
    reason: str
    column: str
    fix: str


def check_types(
    columns: Mapping[str, ColumnContract], table: pa.Table, source: str, text_files: Collection[str]
) -> None:
    """Compares the columns of a table with the types of the contract.

    `text_files` are the files and tables, named as `file_of` does, that are CSV or JSON lines: a column of texts in
    them may have any type, and `check_rows` parses it.

    Raises:
        DataError: a column is gone or has another type; the message names it, the file, and both types.
    """
    for name, column in columns.items():
        if name not in table.column_names:
            raise DataError(
                f"column {name!r}, which preprocess.contract lists, is not in {source}",
                nearest(name, table.column_names).rstrip("?"),
            )
        type_ = _plain_type(table.column(name).type)
        file = file_of(table, name, source)
        if column.type is None or pa.types.is_null(type_) or (is_text(type_) and file in text_files):
            continue
        if not any(fits(type_) for fits in _FITS[column.type]):
            raise DataError(
                f"column {name!r} of {file} has type {type_}, and the contract says {column.type}",
                f"write the column as {column.type}, or change preprocess.contract.columns.{name}.type",
            )


def describe_added(columns: Collection[str], files: Mapping[str, Sequence[str]]) -> list[str]:
    """One warning for each column that a file has and the contract does not list; none for an empty contract.

    `files` maps each file to its columns.
    """
    added: dict[str, list[str]] = {}
    for file, names in files.items():
        for name in names if columns else ():
            if name not in columns:
                added.setdefault(name, []).append(file)
    return [
        f"column {name!r} of {first}{f' and {len(more)} more files' if more else ''} is not in the contract"
        for name, (first, *more) in added.items()
    ]


@dataclass(frozen=True)
class CheckedRows:
    """The verdict on the rows of a table: the place of each row's reason in `rules`, -1 for a row that is good.

    `labels` are those of `read_labels`, NaN where a label is wrong.
    """

    codes: np.ndarray
    rules: list[Rule]
    labels: dict[str, np.ndarray]

    @property
    def is_bad(self) -> np.ndarray:
        return self.codes >= 0


def check_rows(
    config: ContractConfig,
    schema: Schema,
    split: SplitConfig,
    table: pa.Table,
    source: str,
    first_row: int = 0,
    of_joins: Sequence[Rule] = (),
) -> CheckedRows:
    """Finds the rows of a joined table that break the contract, or that the readers of columns would refuse.

    `source` and `first_row` say in messages where the first row of `table` lies; `of_joins` are the rules of its joins.

    Raises:
        DataError: a row is bad, and the contract does not quarantine it; names the first such row.
    """
    rules = [*_column_rules(config.columns, table, source), *of_joins]
    if config.bad_rows == "quarantine":
        rules += _input_rules(schema, split, table, source)
        judged = {task.name: judge_labels(task, table, source) for task in schema.tasks}
        for task in schema.tasks:
            label = judged[task.name]
            rules.append(Rule(label.is_wrong, f"task {task.name!r}: {label.rule}", task.label, label.fix))
        labels = {name: label.values for name, label in judged.items()}
    else:
        refuse_broken(rules, "set preprocess.contract.bad_rows: quarantine", table, source, first_row)
        labels = read_labels(schema, table, source, first_row)
    if config.labels != "ignore":
        impossible = list(_label_rules(schema, labels))
        if config.labels == "error":
            refuse_broken(
                impossible, "set preprocess.contract.labels to quarantine or ignore", table, source, first_row
            )
        rules += impossible
    codes = np.full(table.num_rows, -1, np.int64)
    for place, rule in enumerate(rules):
        codes[(codes < 0) & rule.is_broken] = place
    return CheckedRows(codes, rules, labels)


def refuse_broken(rules: Iterable[Rule], or_else: str, table: pa.Table, source: str, first_row: int) -> None:
    """Raises a DataError that names the first row that breaks a rule; `or_else` is what can be done besides its fix."""
    broken = [rule for rule in rules if rule.is_broken.any()]
    if broken:
        rule = min(broken, key=lambda rule: int(np.argmax(rule.is_broken)))
        value = show_value(table, rule.column, int(np.argmax(rule.is_broken)), source, first_row)
        raise DataError(f"{rule.reason}: {value}", f"{rule.fix}, or {or_else}")


def _column_rules(columns: Mapping[str, ColumnContract], table: pa.Table, source: str) -> Iterator[Rule]:
    for name, column in columns.items():
        raw = table.column(name)
        type_ = _plain_type(raw.type)
        what = f"column {name!r}"
        fix = f"correct the rows, change preprocess.contract.columns.{name}"
        if not column.nullable:
            yield Rule(np.asarray(pc.is_null(raw, nan_is_null=True)), f"{what} is null", name, fix)
        low, high = column.range
        kind = column.type or ("number" if column.range != (None, None) else "text")
        if is_text(type_) and kind != "text":
            yield Rule(_misfits(raw, kind), f"{what} is not {_ARTICLES.get(kind, f'a {kind}')}", name, fix)
        if column.range != (None, None):
            numbers = _as_numbers(raw, table, name, source)
            if low is not None:
                yield Rule(numbers < low, f"{what} is below {low:g}", name, fix)
            if high is not None:
                yield Rule(numbers > high, f"{what} is above {high:g}", name, fix)
        if column.allowed is not None:
            shown = ", ".join(map(str, column.allowed[:MAX_LISTED]))
            more = f" and {len(column.allowed) - MAX_LISTED} more" if len(column.allowed) > MAX_LISTED else ""
            yield Rule(_not_allowed(raw, column.allowed, what), f"{what} is none of {shown}{more}", name, fix)


def _as_numbers(raw: pa.ChunkedArray, table: pa.Table, name: str, source: str) -> np.ndarray:
    """As float64, infinities and the largest numbers kept, NaN where there is no number."""
    if is_text(_plain_type(raw.type)):
        raw = pc.utf8_trim_whitespace(numeric_texts(raw))
    elif not pa.types.is_floating(raw.type):
        return parse_numbers(table, name, f"the range of column {name!r}", source).values
    numbers: np.ndarray = raw.cast(pa.float64()).to_numpy()
    return numbers


def _misfits(texts: pa.ChunkedArray, kind: str) -> np.ndarray:
    """Which rows of a column of texts are not null and do not parse as the type."""
    match kind:
        case "number":
            return np.asarray(unparsable(texts, pa.float64()))
        case "time":
            return np.asarray(unparsable(texts, pa.timestamp("us"), pa.timestamp("us", "UTC")))
        case "list":  # of texts with a delimiter
            return np.zeros(len(texts), bool)
    codes, distinct = as_codes(texts, "texts")
    pattern = r"^\s*[+-]?[0-9]+\s*$" if kind == "integer" else r"^\s*(true|false|0|1)\s*$"
    is_misfit: np.ndarray = np.append(~np.asarray(pc.match_substring_regex(distinct, pattern)), False)[codes]
    return is_misfit


def _not_allowed(raw: pa.ChunkedArray, allowed: Sequence[Any], what: str) -> np.ndarray:
    """Which rows hold, or whose list holds, a value that is not null and not allowed."""
    known = as_text(pa.array([str(value) for value in allowed]), what)
    values = (
        pa.chunked_array([chunk.flatten() for chunk in raw.chunks], raw.type.value_type) if is_list(raw.type) else raw
    )
    codes, texts = as_codes(values, what)
    is_other: np.ndarray = np.append(~np.asarray(pc.is_in(texts, known), bool), False)[codes]
    if not is_list(raw.type):
        return is_other
    lengths = np.asarray(pc.fill_null(pc.list_value_length(raw), 0)).astype(np.int64)
    num_other: np.ndarray = np.bincount(np.repeat(np.arange(len(raw)), lengths), is_other, minlength=len(raw))
    return num_other > 0


def _input_rules(schema: Schema, split: SplitConfig, table: pa.Table, source: str) -> Iterator[Rule]:
    """What the readers of columns refuse: see assign_splits, read_dense, read_sparse and read_weights."""
    fix = "correct the rows"
    for name in deciding_columns(split):
        is_null = np.asarray(pc.is_null(table.column(name), nan_is_null=True))
        yield Rule(is_null, f"the split column {name!r} is null", name, fix)
    for feature in schema.features:
        if isinstance(feature, NumericFeature | BucketedFeature):
            _, faults = judge_dense(table, feature, source)
        else:
            _, faults = judge_sparse(table, feature, source, schema.keys.time)
        yield from (Rule(fault.is_wrong, fault.reason, fault.column, fault.fix) for fault in faults)
    if schema.weight:
        weights = judge_weights(schema.weight, table, source)
        yield Rule(weights.is_wrong, weights.rule, schema.weight, weights.fix)


def _label_rules(schema: Schema, labels: Mapping[str, np.ndarray]) -> Iterator[Rule]:
    impossible = impossible_rows(schema, labels)
    for task in schema.tasks:
        if task.name in impossible:
            reason = f"task {task.name!r} has label 1 outside its space {task.space!r}, whose label is 0"
            fix = f"correct the labels, remove the `space` of {task.name!r}"
            yield Rule(impossible[task.name], reason, task.label, fix)


def _plain_type(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if pa.types.is_dictionary(type_) else type_
