"""The benchmark's log: what it holds, that it is the same whenever it is made, and that it is made once."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.benchmark import log
from pipeline.benchmark.log import LABELS, START_US, TICK_US, TIME, LogSpec, make_log

SPEC = LogSpec(2500, (10, 500), 2)


@pytest.fixture
def small_files(monkeypatch: Any) -> None:
    """Files of a thousand rows instead of half a million."""
    monkeypatch.setattr(log, "ROWS_PER_FILE", 1000)


def _read(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.iterdir())])


def _digest(folder: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.iterdir()))).hexdigest()


@pytest.mark.usefixtures("small_files")
def test_a_log_holds_what_its_specification_says(tmp_path: Path) -> None:
    make_log(tmp_path / "log", SPEC, 2)
    assert len(list((tmp_path / "log").iterdir())) == 3
    table = _read(tmp_path / "log")
    assert table.column_names == ["c00", "c01", "n00", "n01", *LABELS, TIME]
    assert table["c00"].type == pa.string()
    assert set(table["c00"].to_pylist()) == {None, *(f"c00_{value}" for value in range(10))}
    assert 0 < table["c01"].null_count < 100
    assert 150 < table["n00"].null_count < 350
    times = table[TIME].cast(pa.int64()).to_numpy()
    np.testing.assert_array_equal(times, START_US + np.arange(2500) * TICK_US)
    assert SPEC.time_of(0.8) == times[2000]


@pytest.mark.usefixtures("small_files")
def test_parts_differ_and_the_same_specification_gives_the_same_bytes(tmp_path: Path) -> None:
    make_log(tmp_path / "one", SPEC, 1)
    make_log(tmp_path / "two", SPEC, 2)
    assert _digest(tmp_path / "one") == _digest(tmp_path / "two")
    numbers = _read(tmp_path / "one")["n00"]
    assert numbers.slice(0, 1000).to_pylist() != numbers.slice(1000, 1000).to_pylist()


def test_a_log_is_made_once_and_anew_for_another_specification(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    make_log(folder, SPEC, 1)
    (part,) = folder.iterdir()
    part.write_bytes(b"left alone")
    make_log(folder, SPEC, 1)
    assert part.read_bytes() == b"left alone"
    make_log(folder, LogSpec(2500, (10, 501), 2), 1)
    assert pq.read_metadata(part).num_rows == 2500


def test_a_log_that_was_not_finished_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "part-00007.parquet").write_bytes(b"half")
    make_log(folder, SPEC, 1)
    assert _read(folder).num_rows == 2500


def test_the_values_of_an_even_log_take_turns(tmp_path: Path) -> None:
    make_log(tmp_path / "log", LogSpec(1250, (1000,), 0, is_even=True), 1)
    values = _read(tmp_path / "log")["c00"].to_pylist()
    assert sorted(values[:1000]) == sorted(f"c00_{value}" for value in range(1000))
    assert values[1000:] == values[:250]
    assert values[:3] != ["c00_0", "c00_1", "c00_2"]


def test_labels_follow_the_features_of_a_learnable_log_alone(tmp_path: Path) -> None:
    """The mean label of each value in one half of the rows tells the other half's labels apart."""
    gaps = {}
    for is_learnable in (False, True):
        folder = tmp_path / str(is_learnable)
        make_log(folder, LogSpec(20_000, (10,) * 6, 0, is_learnable=is_learnable), 1)
        table = _read(folder)
        label, score = np.asarray(table["click"]), np.zeros(20_000)
        for name in table.column_names[:6]:
            place = np.asarray(table[name].combine_chunks().dictionary_encode().indices.fill_null(10))
            sums = np.bincount(place[:10_000], label[:10_000], 11)
            score += (sums / np.maximum(np.bincount(place[:10_000], minlength=11), 1))[place]
        tested, is_click = score[10_000:], label[10_000:] > 0
        gaps[is_learnable] = (tested[is_click].mean() - tested[~is_click].mean()) / tested.std()
    assert abs(gaps[False]) < 0.1
    assert gaps[True] > 0.3
