"""Packed columns: texts such as `205:9032:1.5 206:77` that hold some fields of their row, taken apart by field."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import DataError
from pipeline.preprocess.columns.text import is_text
from pipeline.preprocess.config import WEIGHT_SUFFIX, PackedConfig

NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
MAX_SHOWN = 80


def raw_columns(packed: PackedConfig, columns: Sequence[str]) -> list[str]:
    """What has to be read for some columns: the packed one in place of those that it holds."""
    held = packed.column_names
    return list(dict.fromkeys(packed.column if column in held else column for column in columns))


def unpack(packed: PackedConfig, table: pa.Table, columns: Sequence[str], file: str, first_row: int) -> pa.Table:
    """Some columns of a table that has their `raw_columns`.

    An id is a text, its weight a float64. A row without a field has null or, of `list_fields`, an empty list; where the
    packed text is null, both are. `file` and `first_row` say in messages where the first row of `table` lies.

    Raises:
        DataError: an element has no field or no id, its weight is no number, or there are several in a row of a field
            that may have one.
    """
    held = [column for column in columns if column in packed.column_names]
    if not held:
        return table
    texts = table.column(packed.column)
    if pa.types.is_dictionary(texts.type):
        texts = texts.cast(texts.type.value_type)
    if not is_text(texts.type) and not pa.types.is_null(texts.type):
        raise DataError(f"packed column {packed.column!r} of {file} has type {texts.type}, not text", "remove `packed`")
    unpacked: dict[str, list[pa.Array]] = {column: [] for column in held}
    # Chunk by chunk: a column that is split takes several times as much memory.
    for chunk in texts.chunks or [pa.array([], pa.string())]:
        elements = _Elements.of(packed, chunk.cast(pa.string()), file, first_row)
        of_chunk = elements.columns(held)
        for column in held:
            unpacked[column].append(of_chunk[column])
        first_row += len(chunk)
    return pa.table({c: pa.chunked_array(unpacked[c]) if c in held else table.column(c) for c in columns})


@dataclass(frozen=True)
class _Elements:
    """The elements of a chunk of texts, and the row of each."""

    packed: PackedConfig
    elements: pa.StringArray
    rows: np.ndarray
    is_null: np.ndarray
    file: str
    first_row: int

    @classmethod
    def of(cls, packed: PackedConfig, texts: pa.StringArray, file: str, first_row: int) -> "_Elements":
        split = pc.split_pattern(texts, packed.delimiter)
        elements = split.flatten()
        is_element = pc.greater(pc.binary_length(elements), 0)
        lengths = np.asarray(pc.fill_null(pc.list_value_length(split), 0))
        rows = np.repeat(np.arange(len(texts)), lengths)[np.asarray(is_element, bool)]
        found = cls(packed, elements.filter(is_element), rows, np.asarray(pc.is_null(texts)), file, first_row)
        is_wrong = np.asarray(pc.less_equal(pc.find_substring(found.elements, packed.field_delimiter), 0))
        found._refuse(np.flatnonzero(is_wrong), f"has no field before {packed.field_delimiter!r}")
        return found

    def columns(self, names: Sequence[str]) -> dict[str, pa.Array]:
        """Those columns, and the ids of any whose weights are among them."""
        columns = {}
        for field in (*self.packed.fields, *self.packed.list_fields):
            weight = field + WEIGHT_SUFFIX
            if field in names or weight in names:
                prefix = field + self.packed.field_delimiter
                chosen = np.flatnonzero(np.asarray(pc.starts_with(self.elements, prefix), bool))
                rest = pc.utf8_slice_codeunits(self.elements.take(pa.array(chosen)), len(prefix))
                ids, weights = self._split_weights(rest, chosen)
                arrange = self._lists if field in self.packed.list_fields else self._single
                columns[field] = arrange(ids, chosen, field)
                if weight in names:
                    columns[weight] = arrange(self._parse(weights, chosen), chosen, field)
        return columns

    def _split_weights(self, rest: pa.StringArray, chosen: np.ndarray) -> tuple[pa.StringArray, pa.StringArray]:
        """The ids of some elements, and their weights as they are written, null for none."""
        ids, weights = rest, pa.nulls(len(rest), pa.string())
        if self.packed.weight_delimiter:
            split = pc.split_pattern(rest, self.packed.weight_delimiter, max_splits=1, reverse=True)
            offsets, parts = split.offsets.to_numpy(), split.flatten()
            ids = parts.take(pa.array(offsets[:-1]))
            weights = parts.take(pa.array(offsets[1:] - 1, mask=np.diff(offsets) == 1))
        is_empty = np.asarray(pc.equal(pc.binary_length(ids), 0), bool)
        self._refuse(chosen[is_empty], "has no id")
        return ids, weights

    def _parse(self, weights: pa.StringArray, chosen: np.ndarray) -> pa.DoubleArray:
        try:
            numbers = weights.cast(pa.float64())
        except pa.ArrowInvalid:
            is_number = pc.match_substring_regex(weights, NUMBER)
            numbers = pc.if_else(is_number, weights, "nan").cast(pa.float64())
        numbers = pc.fill_null(numbers, 1.0)
        self._refuse(chosen[~np.asarray(pc.is_finite(numbers), bool)], "has a weight that is no number")
        return numbers

    def _lists(self, values: pa.Array, chosen: np.ndarray, field: str) -> pa.ListArray:
        lengths = np.bincount(self.rows[chosen], minlength=len(self.is_null))
        offsets = np.append(0, np.cumsum(lengths)).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(self.is_null))

    def _single(self, values: pa.Array, chosen: np.ndarray, field: str) -> pa.Array:
        rows = self.rows[chosen]
        self._refuse(
            chosen[1:][np.diff(rows) == 0],
            f"is the second one of field {field!r} in its row",
            f"list {field!r} under `list_fields` in place of `fields`, for a feature that is multi_valued",
        )
        places = np.full(len(self.is_null), -1)
        places[rows] = np.arange(len(rows))
        return values.take(pa.array(places, mask=places < 0))

    def _refuse(self, wrong: np.ndarray, rule: str, fix: str = "correct it, or the delimiters of `packed`") -> None:
        """Raises a DataError that names the first of some elements, if there is one."""
        if len(wrong):
            element = self.elements[int(wrong[0])].as_py()
            shown = element if len(element) <= MAX_SHOWN else f"{element[:MAX_SHOWN]}..."
            place = f"{self.file}, row {self.first_row + int(self.rows[wrong[0]]) + 1}"
            raise DataError(f"{place}: element {shown!r} of packed column {self.packed.column!r} {rule}", fix)
