"""`gatehouse benchmark train --growth`: a step's time and memory as one size of the work grows, and its panels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.benchmark.panels import Line, Panel
from pipeline.benchmark.rounds import GATEHOUSE, Contestant, Frame, StartStage, record, take_rounds
from pipeline.benchmark.train.arrays import write_arrays
from pipeline.benchmark.train.contest import (
    PRECISIONS,
    TRAIN,
    WAYS,
    TrainUsage,
    floor_of,
    gatehouse,
    lowest_floor,
    make_environments,
    peer,
    run_training,
)
from pipeline.benchmark.train.workload import SIZES, WHOLE, Sizes, Workload, make_datasets
from pipeline.doctor import memory_bytes
from pipeline.evaluate.page.plots import LINE_COLORS

TRAIN_GROWTH = "train-growth"
BODY = "mmoe"
REFERENCE = "reference"
# Speeds are of windows of so many rows, whatever the batch; the first is left out.
WINDOW_ROWS, NUM_WINDOWS = 16_384, 8
TEST_ROWS = 4096
MAX_MEMORY_FRACTION = 0.8
TABLE_ROWS = "table rows"
FLOAT_BYTES = 4
# What a peer keeps of the tables' shape: the tables, a gradient of all rows, the state of Adagrad or the two of Adam;
# and torch-rechub the weights of its best epoch.
TABLE_COPIES = {
    "deepctr-torch, as shipped": 3,
    "deepctr-torch, fused Adam": 4,
    "torch-rechub, as shipped": 5,
    "torch-rechub, fused Adam": 5,
}
# For a moment it may have results of the largest table's shape: of a penalty, or inside its optimizer.
LARGEST_COPIES = 2


@dataclass(frozen=True)
class Dimension:
    """A size of the work that `change` sets to each of `values`, which `size` gives as it is shown."""

    name: str
    values: tuple[int, ...]
    change: Callable[[Sizes, int], Sizes]
    size: Callable[[Workload], int]


def _widen(sizes: Sizes, width: int) -> Sizes:
    return replace(sizes, expert_widths=(width, width // 2))


def _batch(sizes: Sizes, batch_size: int) -> Sizes:
    return replace(sizes, batch_size=batch_size, window_steps=WINDOW_ROWS // batch_size)


def _set(name: str) -> Callable[[Sizes, int], Sizes]:
    def change(sizes: Sizes, value: int) -> Sizes:
        changes: dict[str, Any] = {name: value}
        return replace(sizes, **changes)

    return change


def _table_rows(workload: Workload) -> int:
    return sum(workload.table_rows.values())


DIMENSIONS = (
    Dimension("rows of a batch", (512, 1024, 4096, 16_384), _batch, lambda work: work.sizes.batch_size),
    Dimension("categoricals", (7, 13, 26, 52), _set("num_categoricals"), lambda work: len(work.table_rows)),
    Dimension("experts", (2, 4, 8, 16, 32), _set("num_experts"), lambda work: work.sizes.num_experts),
    Dimension("units of an expert", (128, 256, 512), _widen, lambda work: work.sizes.expert_widths[0]),
    Dimension("tasks", (1, 2, 4, 8), _set("num_tasks"), lambda work: work.sizes.num_tasks),
    Dimension(TABLE_ROWS, (1, 10, 37), _set("table_factor"), _table_rows),
)


@dataclass(frozen=True)
class Point:
    """The reference with another size in one dimension; the reference itself is in none."""

    workload: Workload
    dimension: str = REFERENCE
    size: int = 0

    @property
    def title(self) -> str:
        return f"{self.size:,} {self.dimension}" if self.size else REFERENCE


def reference(folder: Path) -> Workload:
    """The workload of the train benchmark on few rows, of a log with two of each of its categoricals."""
    wide = SIZES.log
    log = replace(wide, cardinalities=tuple(count for count in wide.cardinalities for _ in range(2)))
    sizes = replace(SIZES, log=log, num_categoricals=len(wide.cardinalities), test_rows=TEST_ROWS)
    return _at(folder, _batch(sizes, SIZES.batch_size))


def points_of(first: Workload) -> list[Point]:
    """The reference, and every other size of every dimension."""
    points = [Point(first)]
    for dimension in DIMENSIONS:
        for value in dimension.values:
            workload = _at(first.folder.parent, dimension.change(first.sizes, value))
            if workload != first:
                points.append(Point(workload, dimension.name, dimension.size(workload)))
    return points


def grow_training(frame: Frame, start_stage: StartStage) -> dict[str, Any]:
    """Gatehouse in both precisions at every point, and the peers, if asked for, at every number of table rows.

    Who needs more than `MAX_MEMORY_FRACTION` of the memory by `needed_bytes` is not run; the record says so.

    Raises:
        SetupError: a peer's environment cannot be made, or a run fails.
    """
    folder = frame.work / TRAIN / "growth"
    first = reference(folder)
    points = points_of(first)
    for workload in {point.workload.folder: point.workload for point in points}.values():
        make_datasets(workload, frame.num_threads, start_stage)
    pythons = make_environments(frame, start_stage)
    if pythons:
        write_arrays(first.arrays(WHOLE), first.dataset(WHOLE))
    limit = MAX_MEMORY_FRACTION * memory_bytes()
    runs, left_out = [], []
    for point, contestant in contestants_of(points, folder, pythons):
        needed = needed_bytes(contestant.name, point.workload)
        if needed > limit:
            left_out.append({"who": contestant.name, "point": point.title, "needed_bytes": needed})
        else:
            runs.append((point, contestant))
    contestants = [replace(one, name=f"{one.name}, {point.title}") for point, one in runs]
    points_of_name = {one.name: point for one, (point, _) in zip(contestants, runs, strict=True)}
    floors: dict[str, list[dict[str, Any]]] = {}

    def measure(contestant: Contestant, num_threads: int) -> TrainUsage:
        point = points_of_name[contestant.name]
        if contestant.name.startswith(f"{GATEHOUSE}, {PRECISIONS[0]}"):
            own = floor_of(point.workload, folder / "floor", BODY, WHOLE, num_threads)
            floors.setdefault(point.title, []).append(own)
        return run_training(contestant, num_threads)

    usages = take_rounds(contestants, frame, start_stage("rounds"), measure=measure)
    settings = {
        "rows": first.num_rows,
        "reference": {dimension.name: dimension.size(first) for dimension in DIMENSIONS},
        "points": [
            {
                "who": one.name,
                "precision": next((each for each in PRECISIONS if each in one.name), None),
                "title": point.title,
                "dimension": point.dimension,
                "size": point.size,
                "batch_size": point.workload.sizes.batch_size,
            }
            for point, one in runs
        ],
        "left_out": left_out,
        "memory_limit_bytes": limit,
    }
    best = {title: lowest_floor(own) for title, own in floors.items()}
    return record(TRAIN_GROWTH, settings, contestants, usages, frame, {"floors": best})


def contestants_of(points: list[Point], folder: Path, pythons: dict[str, Path]) -> Iterator[tuple[Point, Contestant]]:
    """Gatehouse at every point, and peers where only the tables may have another size."""
    for point in points:
        own = folder / "runs" / point.title.replace(" ", "-")
        for precision in PRECISIONS:
            yield point, gatehouse(own, point.workload, BODY, precision, WHOLE)
        if point.dimension in (REFERENCE, TABLE_ROWS):
            for name, python in pythons.items():
                for way in WAYS:
                    yield point, peer(own, point.workload, BODY, name, way, WHOLE, python)


def training_panels(found: dict[str, Any]) -> list[Panel]:
    """Milliseconds a step against each size: of all who were run with more than one, and the floors."""
    settings, floors = found["settings"], found["checked"]["floors"]
    points = settings["points"]
    everyone = list(dict.fromkeys(point["who"] for point in points))
    panels = []
    for dimension, reference_size in settings["reference"].items():
        sizes = {p["title"]: p["size"] for p in points if p["dimension"] == dimension} | {REFERENCE: reference_size}
        sizes = dict(sorted(sizes.items(), key=lambda one: one[1]))
        lines = []
        for color, who in zip(LINE_COLORS, everyone, strict=False):
            own = {p["title"]: (p, one) for p, one in zip(points, found["contestants"], strict=True) if p["who"] == who}
            values = {size: _milliseconds(*own[title]) for title, size in sizes.items() if title in own}
            if len(values) > 1:
                lines.append(Line(values, color, who))
        for color, precision in zip(LINE_COLORS, PRECISIONS, strict=False):
            values = {sizes[title]: [1000 * floors[title]["seconds"][precision]] for title in sizes if title in floors}
            lines.append(Line(values, color, f"the floor, {precision}", "--"))
        panels.append(Panel(dimension, "ms a step", tuple(lines), is_log=True))
    return panels


def _milliseconds(point: dict[str, Any], one: dict[str, Any]) -> list[float]:
    return [1000 * point["batch_size"] / median(run["window_speeds"]) for run in one["runs"]]


def needed_bytes(who: str, workload: Workload) -> int:
    """What a contestant has of the tables' shape at the most; its process needs about a GB besides."""
    rows = list(workload.table_rows.values())
    row_bytes = FLOAT_BYTES * workload.sizes.embedding_dim
    if who.startswith(GATEHOUSE):
        # The tables and the row-wise state of their optimizer, and the copy of both that a checkpoint is written from.
        return 2 * sum(rows) * (row_bytes + FLOAT_BYTES)
    return (TABLE_COPIES[who] * sum(rows) + LARGEST_COPIES * max(rows)) * row_bytes


def _at(folder: Path, sizes: Sizes) -> Workload:
    """A workload whose dataset is shared by all that have its features and tasks, and whose log by all."""
    name = f"{sizes.num_categoricals}-categoricals-{sizes.num_tasks}-tasks"
    return Workload(folder / name, folder / "log", NUM_WINDOWS * WINDOW_ROWS, sizes, (WHOLE,))
