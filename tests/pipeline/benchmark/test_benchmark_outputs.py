"""Two outputs of the same work are found equal whatever their ids and the order of their rows, and others are not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from pipeline.benchmark.log import LABELS, START_US, TICK_US, TIME, LogSpec
from pipeline.benchmark.outputs import FilesOutput, find_differences, inspect
from pipeline.shards.manifest import SPLITS

SPEC = LogSpec(30, (4,), 1)
WORDS = np.array(["red", "green", "blue"])
Columns = dict[str, Any]


def _rows() -> Columns:
    """Words by place (3: unseen, 4: null) and the other columns, 30 rows."""
    random = np.random.default_rng(0)
    return {
        "c00": random.integers(0, 5, 30),
        "n00": random.random(30).astype(np.float32),
        **{label: random.integers(0, 2, 30).astype(np.float32) for label in LABELS},
        TIME: START_US + np.arange(30) * TICK_US,
    }


def _write(
    folder: Path, rows: Columns, words: np.ndarray, order: np.ndarray, write: Callable[[pa.Table, Path], Any], kind: str
) -> FilesOutput:
    """An output whose vocabulary is `words`, with the rows of each split in some order."""
    (folder / "vocabularies").mkdir(parents=True)
    ids = np.arange(2, 2 + len(words), dtype=np.int32)
    write(pa.table({"value": words, "id": ids}), folder / "vocabularies" / f"c00.{kind}")
    id_of = dict(zip(words, ids, strict=True))
    codes = np.array([*(id_of.get(word, 0) for word in WORDS), 0, 1], np.int32)
    for split, (start, end) in zip(SPLITS, ((0, 20), (20, 25), (25, 30)), strict=True):
        (folder / split).mkdir()
        own = order[(order >= start) & (order < end)]
        columns = {name: values[own] for name, values in rows.items()}
        columns["c00"] = codes[columns["c00"]]
        columns[TIME] = pa.array(columns[TIME], pa.timestamp("us"))
        for part, piece in enumerate(np.array_split(np.arange(len(own)), 2)):
            write(pa.table(columns).take(pa.array(piece)), folder / split / f"{part}.{kind}")
    return FilesOutput(folder)


def _parquet(folder: Path, rows: Columns, words: np.ndarray = WORDS) -> FilesOutput:
    return _write(folder, rows, words, np.arange(30), pq.write_table, "parquet")


def _differences(tmp_path: Path, rows: Columns, words: np.ndarray = WORDS) -> list[str]:
    """What differs between the untouched rows and these."""
    expected = inspect(_parquet(tmp_path / "expected", _rows()), SPEC)
    return find_differences(expected, inspect(_parquet(tmp_path / "found", rows, words), SPEC))


def test_other_ids_another_order_and_another_format_are_the_same_work(tmp_path: Path) -> None:
    one = inspect(_parquet(tmp_path / "one", _rows()), SPEC)
    order = np.random.default_rng(1).permutation(30)
    two = _write(tmp_path / "two", _rows(), WORDS[::-1], order, pyarrow.feather.write_feather, "arrow")
    assert find_differences(one, inspect(two, SPEC)) == []
    assert one.num_values == 3
    assert one.facts["rows of validation"] == 5
    assert one.facts["unseen c00 in train"] == int((_rows()["c00"][:20] == 3).sum()) > 0
    assert set(one.sample["c00"].to_pylist()) == {*WORDS, "(unseen)", None}


@pytest.mark.parametrize(
    ("column", "row", "value", "said"),
    [
        ("c00", 3, 0, "c00 in 1 rows of the sample, the first with"),
        ("c00", 3, 3, "unseen c00 in train: "),
        ("c00", 28, 4, "null c00 in test: "),
        ("n00", 22, 9.5, "mean n00 in validation: "),
        ("n00", 22, np.nan, "n00 in 1 rows of the sample"),
        ("click", 7, 0.5, "click in 1 rows of the sample"),
        (TIME, 29, START_US + 40 * TICK_US, "the rows of the sample are not the same"),
    ],
)
def test_a_changed_row_is_found(tmp_path: Path, column: str, row: int, value: float, said: str) -> None:
    rows = _rows()
    assert rows[column][row] != value
    rows[column][row] = value
    assert any(said in difference for difference in _differences(tmp_path, rows))


def test_two_numbers_that_change_places_are_found(tmp_path: Path) -> None:
    rows = _rows()
    rows["n00"][[4, 5]] = rows["n00"][[5, 4]]
    (difference,) = _differences(tmp_path, rows)
    assert difference.startswith("n00 in 2 rows of the sample, the first with ")


def test_a_rounding_of_numbers_is_no_difference(tmp_path: Path) -> None:
    rows = _rows()
    rows["n00"] += np.float32(3e-6)
    assert _differences(tmp_path, rows) == []


def test_ids_and_numbers_of_another_width_are_found(tmp_path: Path) -> None:
    rows = _rows()
    rows["n00"] = rows["n00"].astype(np.float64)
    assert all(difference.startswith("types in ") for difference in _differences(tmp_path, rows))
    assert len(_differences(tmp_path / "again", rows)) == len(SPLITS)


def test_another_vocabulary_is_found(tmp_path: Path) -> None:
    differences = _differences(tmp_path / "fewer", _rows(), WORDS[:2])
    assert "number of values of c00: 3 and 2" in differences
    assert any(difference.startswith("unseen c00 in train") for difference in differences)
    differences = _differences(tmp_path / "other", _rows(), np.array(["red", "green", "grey"]))
    assert any(difference.startswith("sha256 over the sorted values of c00") for difference in differences)
    assert any("blue and (unseen)" in difference for difference in differences)


def test_an_id_that_is_given_twice_is_found(tmp_path: Path) -> None:
    output = _parquet(tmp_path / "found", _rows())
    table = pa.table({"value": WORDS, "id": np.array([2, 2, 4], np.int32)})
    pq.write_table(table, output.folder / "vocabularies" / "c00.parquet")
    expected = inspect(_parquet(tmp_path / "expected", _rows()), SPEC)
    assert "ids of c00: 2 and what follows and with gaps or twice" in find_differences(expected, inspect(output, SPEC))
