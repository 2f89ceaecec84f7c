"""Slices: which value of each dimension a row has, such as its country, its day, or the range that its price is in.

A first pass over the rows finds the most frequent values of each dimension and the ranges of numbers; after it every
row has one of a few values, whatever part it is in.

Shapes: N rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.preprocess.columns.text import Codes
from pipeline.preprocess.features.normalize import bucket_of
from pipeline.preprocess.profiles.sample import QuantileSample, RowOrder

# In brackets, as a column could have the word itself.
OTHER, NONE = "(other)", "(none)"

Numbers = NDArray[np.float64]
# What a dimension has on the rows of a table: values as codes of texts, or numbers, NaN for none.
Read = Callable[[pa.Table], Codes | Numbers]


class Dimension(NamedTuple):
    """One way to divide the rows. Of values the `top` most frequent are kept apart, numbers come into `buckets`."""

    name: str
    read: Read
    top: int | None = None
    buckets: int = 1


class Survey(NamedTuple):
    """What some rows have: by dimension the count of each text, or a sample of its numbers. Merges in any order."""

    counts: dict[str, pa.Table]
    samples: dict[str, QuantileSample]

    @classmethod
    def of(cls, dimensions: Sequence[Dimension], table: pa.Table, first_row: int) -> "Survey":
        order = RowOrder.of(first_row + np.arange(table.num_rows))
        counts, samples = {}, {}
        for one in dimensions:
            values = one.read(table)
            if isinstance(values, Codes):
                found = np.bincount(values.codes + 1, minlength=len(values.texts) + 1)[1:]
                counts[one.name] = _add_up(pa.table({"value": values.texts, "count": found}))
            else:
                samples[one.name] = QuantileSample.of(values, order)
        return cls(counts, samples)

    def merge(self, other: "Survey") -> "Survey":
        return Survey(
            {name: _add_up(pa.concat_tables([one, other.counts[name]])) for name, one in self.counts.items()},
            {name: one.merge(other.samples[name]) for name, one in self.samples.items()},
        )


def _add_up(counts: pa.Table) -> pa.Table:
    grouped = counts.filter(pc.greater(counts["count"], 0)).group_by("value", use_threads=False)
    sums = grouped.aggregate([("count", "sum")])
    return pa.table({"value": sums["value"], "count": sums["count_sum"]})


@dataclass(frozen=True)
class Slicer:
    """Gives each row its value of every dimension: `values`, by dimension, are all that there are.

    The last two values are that of all that are not listed, and that of a row with none. `cuts` are those of numbers.
    """

    dimensions: tuple[Dimension, ...]
    values: dict[str, pa.StringArray]
    cuts: dict[str, tuple[float, ...]]

    @classmethod
    def of(cls, dimensions: Sequence[Dimension], survey: Survey) -> "Slicer":
        """From the survey of all rows; of equally frequent values the first in the order of texts are listed."""
        values, cuts = {}, {}
        for one in dimensions:
            if one.name in survey.counts:
                counts = survey.counts[one.name].sort_by([("count", "descending"), ("value", "ascending")])
                names = counts["value"].slice(0, one.top).to_pylist()
            else:
                cuts[one.name] = survey.samples[one.name].boundaries(one.buckets)
                names = range_names(cuts[one.name])
            values[one.name] = pa.array([*names, OTHER, NONE], pa.string())
        return cls(tuple(dimensions), values, cuts)

    def slice(self, table: pa.Table) -> dict[str, pa.DictionaryArray]:
        """The value of each row by dimension, dictionary<int32, string> with the same dictionary for any table: [N]."""
        sliced = {}
        for one in self.dimensions:
            names, found = self.values[one.name], one.read(table)
            if isinstance(found, Codes):
                places = pc.index_in(found.texts, names.slice(0, len(names) - 2)).fill_null(len(names) - 2)
                codes = np.append(np.asarray(places), len(names) - 1)[found.codes]
            else:
                buckets = bucket_of(found, self.cuts[one.name])
                codes = np.where(buckets < 0, len(names) - 1, buckets)
            sliced[one.name] = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), names)
        return sliced


def range_names(cuts: Sequence[float]) -> list[str]:
    """The ranges that ascending cuts make, in words, with as many digits as tell them apart."""
    if not cuts:
        return ["all values"]
    digits = next((n for n in range(4, 17) if len({f"{cut:.{n}g}" for cut in cuts}) == len(cuts)), 17)
    shown = [f"{cut:.{digits}g}" for cut in cuts]
    between = [f"{low} to {high}" for low, high in pairwise(shown)]
    return [f"below {shown[0]}", *between, f"{shown[-1]} and above"]
