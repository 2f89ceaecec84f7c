"""What is shown of benchmarks: the table of one record on a terminal, and a page with the last record of each kind."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.benchmark.growth import GROWTH, growth_panels
from pipeline.benchmark.kinds import KINDS
from pipeline.benchmark.panels import Panel, draw_panels
from pipeline.benchmark.rounds import FORMAT
from pipeline.benchmark.tables import GB, Table
from pipeline.benchmark.train.growth import TRAIN_GROWTH, training_panels
from pipeline.files import write_text


@dataclass(frozen=True)
class Plot:
    """What a plot shows, in a file whose name is that of the records with a suffix."""

    suffix: str
    shows: str
    panels: Callable[[dict[str, Any]], list[Panel]]
    num_columns: int

    def path(self, out: Path) -> Path:
        return out.with_name(f"{out.stem}{self.suffix}.svg")


PLOTS = {
    GROWTH: Plot("", "speed and memory", growth_panels, 2),
    TRAIN_GROWTH: Plot("-train", "milliseconds a step", training_panels, 3),
}


def summary_rows(found: dict[str, Any]) -> Table:
    """Headers, and one row per contestant."""
    return KINDS[found["benchmark"]].table(found)


def save(found: dict[str, Any], out: Path) -> list[Path]:
    """Appends a record to a file of JSON lines, draws its plot if it has one, and makes the page beside it anew.

    The page has the last record of each benchmark, of those in this format. Gives the files that were written.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a") as lines:
        lines.write(json.dumps(found) + "\n")
    written = [out, out.with_suffix(".md")]
    if plot := PLOTS.get(found["benchmark"]):
        draw_panels(plot.panels(found), plot.num_columns, plot.path(out))
        written.append(plot.path(out))
    records = map(json.loads, out.read_text().splitlines())
    last = {one["benchmark"]: one for one in records if one["format"] == FORMAT}
    sections = [_section(one, out) for _, one in sorted(last.items())]
    write_text(out.with_suffix(".md"), "# Speed\n\n" + "\n".join(sections))
    return written


def _section(found: dict[str, Any], out: Path) -> str:
    name, machine = found["benchmark"], found["machine"]
    kind = KINDS[name]
    parts = [
        f"## {name}\n",
        kind.explanation,
        f"{found['settings']['rounds']} rounds, {found['num_threads']} threads; finished {found['finished']}, "
        f"revision {found['revision']}.\nMachine: {machine['processor']}, {machine['num_cores']} cores, "
        f"{machine['memory_bytes'] / GB:.0f} GB of memory; a copy reads and writes "
        f"{machine['copy_bytes_per_second'] / GB:.0f} GB/s.",
    ]
    if kind.describe:
        parts.append(kind.describe(found))
    if plot := PLOTS.get(name):
        parts.append(f"\n![{plot.shows}]({plot.path(out).name})")
    return "\n".join([*parts, "", _markdown(*summary_rows(found)), ""])


def _markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    marks = ["---", "---", *["---:"] * (len(headers) - 2)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headers, marks, *rows))
