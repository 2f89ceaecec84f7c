"""Rows as Python lists, drawn at random or by hand, and the table and layout that they have."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from pipeline.shards.collate import Layout

NUM_EMBEDDINGS = 2**40
NULL = None


@dataclass
class Rows:
    """Rows as Python lists, and the layout that their table has."""

    single_valued: list[bool]
    is_wide: list[bool]  # int64 ids
    bags: list[list[list[int]]]  # feature, row, ids
    dense: list[list[float]]
    labels: list[list[float | None]]
    weights: list[float] | None = None

    @property
    def layout(self) -> Layout:
        return Layout(
            tuple(f"f{place}" for place in range(len(self.bags))),
            tuple(self.single_valued),
            tuple(NUM_EMBEDDINGS if wide else 2**31 for wide in self.is_wide),
            len(self.dense[0]) if self.dense else 0,
            len(self.labels[0]) if self.labels else 1,
        )

    def table(self) -> pa.Table:
        columns: dict[str, pa.Array] = {}
        for place, (single, wide, bags) in enumerate(zip(self.single_valued, self.is_wide, self.bags, strict=True)):
            type_ = pa.int64() if wide else pa.int32()
            columns[f"sparse_f{place}"] = (
                pa.array([bag[0] for bag in bags], type_) if single else pa.array(bags, pa.list_(type_))
            )
        if self.layout.num_dense:
            columns["dense"] = pa.array(self.dense, pa.list_(pa.float32(), self.layout.num_dense))
        columns["labels"] = pa.array(self.labels, pa.list_(pa.float32(), self.layout.num_tasks))
        if self.weights is not None:
            columns["weight"] = pa.array(self.weights, pa.float32())
        return pa.table(columns)


@st.composite
def rows(draw: st.DrawFn, min_rows: int = 1) -> Rows:
    num_rows = draw(st.integers(min_rows, 7))
    num_features, num_dense, num_tasks = draw(st.integers(0, 4)), draw(st.integers(0, 3)), draw(st.integers(1, 3))
    single = draw(st.lists(st.booleans(), min_size=num_features, max_size=num_features))
    wide = draw(st.lists(st.booleans(), min_size=num_features, max_size=num_features))

    def values(value: st.SearchStrategy[Any], min_size: int, max_size: int) -> list[list[Any]]:
        one = st.lists(value, min_size=min_size, max_size=max_size)
        return draw(st.lists(one, min_size=num_rows, max_size=num_rows))

    bags = [
        values(st.integers(0, (NUM_EMBEDDINGS if is_wide else 2**31) - 1), int(is_single), 1 if is_single else 4)
        for is_single, is_wide in zip(single, wide, strict=True)
    ]
    dense = values(st.floats(-1e6, 1e6, width=32), num_dense, num_dense)
    labels = values(st.sampled_from([NULL, 0.0, 1.0, 3.5]), num_tasks, num_tasks)
    weight = st.floats(0, 1e6, width=32)
    weights = draw(st.none() | st.lists(weight, min_size=num_rows, max_size=num_rows))
    return Rows(single, wide, bags, dense, labels, weights)


MIXED = Rows(
    [True, False],
    [False, True],
    [[[4], [5], [6]], [[7, 8], [], [NUM_EMBEDDINGS - 1]]],
    [[1.0], [2.0], [3.0]],
    [[1.0, NULL], [NULL, 0.0], [0.0, 2.0]],
    [0.5, 0.0, 3.0],
)
