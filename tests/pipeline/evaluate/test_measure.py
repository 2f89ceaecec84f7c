"""What is measured does not depend on how rows are divided or who measures them, and memory is bounded."""

import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from fabricated_parts import TASKS, make_columns, measure_columns, write_parts
from hypothesis import given, settings
from hypothesis import strategies as st
from log_of_every_task import SPACES, make_log
from numpy.typing import NDArray

from pipeline.errors import ArtifactError
from pipeline.evaluate.measure import measure as measuring
from pipeline.evaluate.measure import passes, survey
from pipeline.evaluate.measure.measure import measure
from pipeline.evaluate.measure.parts import Frame
from pipeline.evaluate.metrics import ranked
from pipeline.executor import InProcessExecutor, Item, Result

Array = NDArray[Any]


def assert_equal(first: Any, second: Any) -> None:
    """Equal to 1e-9 in every number."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert list(first) == list(second)
        for name in first:
            assert_equal(first[name], second[name])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert_equal(a, b)
    elif isinstance(first, float):
        assert first == pytest.approx(second, rel=1e-9, abs=1e-9)
    else:
        assert first == second


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32), max_rows=st.sampled_from([25, 60, 200, 1 << 18]), num_threads=st.integers(1, 2))
def test_seven_random_parts_and_any_ranges_give_the_same(seed: int, max_rows: int, num_threads: int) -> None:
    columns = make_log(seed)
    options = {"num_replicates": 15, "min_slice_rows": 50}
    whole = measure_columns(columns, SPACES, **options)
    parts = measure_columns(
        columns, SPACES, num_parts=7, seed=seed, max_rows=max_rows, num_threads=num_threads, **options
    )
    assert_equal(asdict(whole), asdict(parts))
    assert whole.num_rows == 400


def test_samples_do_not_depend_on_the_parts_either() -> None:
    columns = make_log(3, num_rows=2_000, num_users=100)
    with mock.patch.object(survey, "MAX_SAMPLE_ROWS", 300):
        found = [
            measure_columns(columns, SPACES, num_parts=parts, max_rows=rows, num_replicates=15)
            for parts, rows in ((1, 1 << 18), (7, 150))
        ]
    assert_equal(asdict(found[0]), asdict(found[1]))
    full = measure_columns(columns, SPACES, num_replicates=15)
    xauc = [one.tasks[3]["metrics"]["xauc"] for one in (found[0], full)]
    assert xauc[0]["value"] != xauc[1]["value"]
    assert xauc[0]["value"] == pytest.approx(xauc[1]["value"], abs=0.1)
    assert xauc[0]["high"] - xauc[0]["low"] > xauc[1]["high"] - xauc[1]["low"], "a sample knows less"


def test_no_more_rows_are_in_memory_than_may_be() -> None:
    sizes: list[int] = []
    read = ranked._read_runs

    class Watched(Frame):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            sizes.append(len(self))

    def watch(one: ranked.RankRange) -> list[Array]:
        columns = read(one)
        sizes.append(len(columns[0]))
        return columns

    with (
        mock.patch.object(passes, "Frame", Watched),
        mock.patch.object(survey, "Frame", Watched),
        mock.patch.object(ranked, "_read_runs", watch),
    ):
        measure_columns(
            make_log(0, num_rows=3_000, num_users=1_000), SPACES, num_parts=3, max_rows=300, num_replicates=10
        )
    assert max(sizes) <= 300
    assert sum(sizes) > 3_000 * 3


class PicklingExecutor:
    """Sends every function, item and result through pickle, as processes do, with arrays that are read-only then."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        for item in items:
            called, given = send((function, item))
            result: Result = send(called(given))
            yield result


def send(value: Any) -> Any:
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(content, buffers=[bytes(buffer) for buffer in buffers])


def test_other_processes_can_do_the_work(tmp_path: Path) -> None:
    columns = make_log(0)
    parts = write_parts(tmp_path, columns, np.arange(400) % 3)
    executors: tuple[Any, Any] = (PicklingExecutor(), InProcessExecutor())
    with mock.patch.object(measuring, "MAX_RANGE_ROWS", 150):
        found = [measure(parts, SPACES, ["country"], executor, num_replicates=10) for executor in executors]
    assert found[0] == found[1]


def test_progress_is_told_in_rows_of_three_phases() -> None:
    told: dict[str, list[Any]] = {}
    measure_columns(
        make_log(0),
        SPACES,
        max_rows=100,
        num_replicates=10,
        progress=lambda what, done, total, units, unit: told.setdefault(what, []).append((done, total, units, unit)),
    )
    assert list(told) == ["pieces sampled", "pieces sorted", "ranges measured"]
    for phase in told.values():
        assert phase[0][0] == 0
        assert phase[-1] == (phase[-1][1], phase[-1][1], 400, "rows")


def test_parts_with_other_columns_or_slices_are_refused(tmp_path: Path) -> None:
    columns = make_columns([0.1, 0.9], [0, 1], slices={"day": ["a", "b"]})
    parts = write_parts(tmp_path, columns, np.zeros(2, np.int64))
    (tmp_path / "other").mkdir()
    for other in (make_columns([0.1], [0]) | {"slice_day": ["a"]}, make_columns([0.1], [0], user=["u"])):
        second = write_parts(tmp_path / "other", other | {"slice_day": ["a"]}, np.zeros(1, np.int64))
        with pytest.raises(ArtifactError, match=r"other.part-00000.arrow has other columns or slices than"):
            measure([*parts, *second], [TASKS["binary"]], ["day"], InProcessExecutor())
