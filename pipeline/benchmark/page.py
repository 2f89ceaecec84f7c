"""What is shown of benchmarks: the table of one record on a terminal, and a page with the last record of each kind."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.benchmark.growth import GROWTH, draw_growth
from pipeline.benchmark.kinds import KINDS
from pipeline.benchmark.rounds import FORMAT
from pipeline.benchmark.tables import GB, Table
from pipeline.files import write_text


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
    plot = out.with_suffix(".svg")
    if found["benchmark"] == GROWTH:
        draw_growth(found, plot)
        written.append(plot)
    records = map(json.loads, out.read_text().splitlines())
    last = {one["benchmark"]: one for one in records if one["format"] == FORMAT}
    sections = [_section(one, plot.name) for _, one in sorted(last.items())]
    write_text(out.with_suffix(".md"), "# Speed\n\n" + "\n".join(sections))
    return written


def _section(found: dict[str, Any], plot_name: str) -> str:
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
    if name == GROWTH:
        parts.append(f"\n![speed and memory]({plot_name})")
    return "\n".join([*parts, "", _markdown(*summary_rows(found)), ""])


def _markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    marks = ["---", "---", *["---:"] * (len(headers) - 2)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headers, marks, *rows))
