"""How training grows: every size is another by one dimension, who cannot fit is not run, and all of it is shown."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands_here import ignore, run_here

from pipeline.benchmark.log import LogSpec
from pipeline.benchmark.page import save
from pipeline.benchmark.rounds import Contestant, Frame
from pipeline.benchmark.score import PEERS
from pipeline.benchmark.train import growth, workload
from pipeline.benchmark.train.contest import WAYS, TrainUsage
from pipeline.benchmark.train.growth import (
    DIMENSIONS,
    REFERENCE,
    TABLE_COPIES,
    TABLE_ROWS,
    contestants_of,
    grow_training,
    needed_bytes,
    points_of,
    reference,
    training_panels,
)
from pipeline.benchmark.train.workload import SIZES
from pipeline.shards.manifest import read_index

GB = 10**9
FLOOR = {
    "flops": 8 * GB,
    "flops_per_second": {"float32": 40 * GB, "bfloat16": 80 * GB},
    "seconds": {"float32": 0.25, "bfloat16": 0.125},
}


def test_a_point_differs_from_the_reference_in_one_size(tmp_path: Path) -> None:
    first, *others = points_of(reference(tmp_path))
    sizes = [{one.name: one.size(point.workload) for one in DIMENSIONS} for point in others]
    own = {one.name: one.size(first.workload) for one in DIMENSIONS}
    assert (own["rows of a batch"], own["categoricals"], own["experts"], own["tasks"]) == (4096, 26, 8, 2)
    assert own[TABLE_ROWS] == sum(SIZES.log.cardinalities) + 2 * 26
    for point, found in zip(others, sizes, strict=True):
        assert found[point.dimension] == point.size != own[point.dimension]
        changed = {name for name in own if found[name] != own[name]}
        # A table belongs to a categorical.
        assert changed - {point.dimension} <= ({TABLE_ROWS} if point.dimension == "categoricals" else set())
    assert len({point.title for point in others}) == len(others) == sum(len(one.values) - 1 for one in DIMENSIONS)


def test_windows_have_as_many_rows_whatever_the_batch(tmp_path: Path) -> None:
    for point in points_of(reference(tmp_path)):
        sizes = point.workload.sizes
        assert sizes.batch_size * sizes.window_steps == growth.WINDOW_ROWS
        assert point.workload.num_rows % sizes.batch_size == 0


def test_peers_are_run_only_where_tables_alone_differ(tmp_path: Path) -> None:
    runs = list(contestants_of(points_of(reference(tmp_path)), tmp_path, dict.fromkeys(PEERS, tmp_path)))
    of_peers = [(point, one) for point, one in runs if not one.name.startswith("gatehouse")]
    assert len(of_peers) == 3 * len(PEERS) * len(WAYS)
    assert {one.name for _, one in of_peers} == set(TABLE_COPIES)
    assert {point.dimension for point, _ in of_peers} == {REFERENCE, TABLE_ROWS}
    assert len({one.folder for _, one in runs}) == len(runs)


def test_the_memory_that_tables_need_is_what_a_hand_counts(tmp_path: Path) -> None:
    first = reference(tmp_path)
    small = replace(first, sizes=replace(first.sizes, log=LogSpec(0, (8, 98), 0), num_categoricals=2))
    # 10 and 100 rows of 16 floats.
    assert needed_bytes("gatehouse, bfloat16", small) == 2 * 110 * (16 + 1) * 4
    assert needed_bytes("deepctr-torch, as shipped", small) == (3 * 110 + growth.LARGEST_COPIES * 100) * 16 * 4


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sizes of two dimensions, on a log of three categoricals, with training in this process."""
    sizes = replace(
        SIZES,
        log=LogSpec(0, (5, 40, 300), 2, is_learnable=True),
        validation_rows=64,
        batch_size=64,
        expert_widths=(8, 4),
        tower_widths=(4,),
        num_experts=2,
    )
    monkeypatch.setattr(growth, "SIZES", sizes)
    monkeypatch.setattr(growth, "TEST_ROWS", 64)
    monkeypatch.setattr(growth, "WINDOW_ROWS", 128)
    chosen = {"categoricals": (3, 6), TABLE_ROWS: (1, 1000), "tasks": (2, 3)}
    dimensions = tuple(replace(one, values=chosen[one.name]) for one in DIMENSIONS if one.name in chosen)
    monkeypatch.setattr(growth, "DIMENSIONS", dimensions)
    monkeypatch.setattr(workload, "run_measured", run_here)
    monkeypatch.setattr("pipeline.benchmark.rounds.run_measured", run_here)
    monkeypatch.setattr(growth, "floor_of", lambda *_: FLOOR)


def test_growth_of_training_is_measured_drawn_and_shown(small: None, tmp_path: Path) -> None:
    found = grow_training(Frame(tmp_path / "work", 1, 1), lambda _: ignore)
    titles = [REFERENCE, "6 categoricals", "3 tasks", "351,000 table rows"]
    names = [f"gatehouse, {precision}, {title}" for title in titles for precision in ("float32", "bfloat16")]
    assert sorted(one["name"] for one in found["contestants"]) == sorted(names)
    assert all(len(run["window_speeds"]) == 7 for one in found["contestants"] for run in one["runs"])
    index = read_index(tmp_path / "work" / "train" / "growth" / "6-categoricals-2-tasks" / "whole" / "dataset")
    assert [one.name for one in index.data_schema.sparse_features] == [f"c{place:02}" for place in range(6)]
    index = read_index(tmp_path / "work" / "train" / "growth" / "3-categoricals-3-tasks" / "whole" / "dataset")
    assert [(task.name, task.label) for task in index.data_schema.tasks][1:] == [("buy", "buy"), ("click_2", "click")]
    panels = {panel.x_label: panel for panel in training_panels(found)}
    assert set(panels) == {"categoricals", "tasks", TABLE_ROWS}
    lines = {line.label: line.values for line in panels["tasks"].lines}
    assert [list(values) for values in lines.values()] == [[2, 3]] * 4
    assert lines["the floor, bfloat16"] == {2: [125.0], 3: [125.0]}
    files = save(found, tmp_path / "speed.jsonl")
    assert [path.name for path in files] == ["speed.jsonl", "speed.md", "speed-train.svg"]
    page = files[1].read_text()
    assert "![milliseconds a step](speed-train.svg)" in page
    assert "The reference: 3 categoricals, 2 tasks, 351 table rows; 1,024 rows to train on." in page
    assert " GB: none." in page


def test_who_cannot_fit_is_left_out_and_named(small: None, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(growth, "make_environments", lambda *_: {"deepctr": tmp_path})
    # The peer's tables of 351,000 rows need more than 80 % of this, and gatehouse's less.
    monkeypatch.setattr(growth, "memory_bytes", lambda: 80_000_000)

    def measure(contestant: Contestant, _num_threads: int) -> TrainUsage:
        return TrainUsage(2.0, 0.5, 1.0, 0.0, 1, 1, (64.0 if contestant.num_rows else 1.0,))

    monkeypatch.setattr(growth, "run_training", measure)
    found = grow_training(Frame(tmp_path / "work", 1, 1, True), lambda _: ignore)
    left_out = found["settings"]["left_out"]
    assert [(one["who"], one["point"]) for one in left_out] == [
        (f"deepctr-torch, {way}", "351,000 table rows") for way in WAYS
    ]
    assert all(one["needed_bytes"] > 0.8 * 80_000_000 for one in left_out)
    assert len(found["contestants"]) == 4 * 2 + 2
    page = save(found, tmp_path / "speed.jsonl")[1].read_text()
    assert f"deepctr-torch, as shipped, 351,000 table rows: 0.1 GB ({left_out[0]['needed_bytes']:,} bytes)" in page
    # Of one size there is no line.
    assert {line.label for line in training_panels(found)[-1].lines} == {
        f"{who}, {precision}" for who in ("gatehouse", "the floor") for precision in ("float32", "bfloat16")
    }
