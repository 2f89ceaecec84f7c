"""What is shown of benchmarks: the table of one record on a terminal, and a page with the last record of each kind."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.benchmark.growth import GROWTH, draw_growth
from pipeline.benchmark.kinds import KINDS
from pipeline.benchmark.rounds import FORMAT
from pipeline.files import write_text

GB = 1e9


def summary_rows(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headers and one row per contestant, medians over the rounds, ranges as "lowest to highest".

    `time` is, per row, a multiple of what the first contestant took in the same round; `time after start` is the same
    without the start of either.
    """
    contestants = found["contestants"]
    kind = KINDS[found["benchmark"]]
    headers = [
        "",
        "version",
        f"{kind.unit}/s",
        "range",
        "start, s",
        f"{kind.unit}/s after it",
        "CPU, s",
        "others' CPU, s",
        "peak RSS, GB",
        "anonymous, GB",
    ]
    headers += ["time", "time after start"] if kind.is_contest else []
    rows = []
    for one in contestants:
        num_rows, runs = one["num_rows"], one["runs"]
        speeds = [num_rows / run["seconds"] for run in runs]
        row = [
            one["name"],
            ", ".join(v if one["name"].startswith(name) else f"{name} {v}" for name, v in one["versions"].items()),
            f"{median(speeds):,.0f}",
            f"{min(speeds):,.0f} to {max(speeds):,.0f}",
            f"{_median_of(runs, 'start_seconds'):.1f}",
            f"{median(num_rows / (run['seconds'] - run['start_seconds']) for run in runs):,.0f}",
            f"{_median_of(runs, 'cpu_seconds'):.1f}",
            f"{_median_of(runs, 'other_cpu_seconds'):.1f}",
            f"{_median_of(runs, 'peak_rss_bytes') / GB:.2f}",
            f"{_median_of(runs, 'peak_anonymous_bytes') / GB:.2f}",
        ]
        if kind.is_contest:
            row += [_ratios(one, contestants[0], starts_count) for starts_count in (True, False)]
        rows.append(row)
    return headers, rows


def _ratios(one: dict[str, Any], first: dict[str, Any], starts_count: bool) -> str:
    """The times of a contestant per row as multiples of another's in the same rounds, starts that are free left out."""

    def times(contestant: dict[str, Any]) -> list[float]:
        counts = starts_count and not contestant.get("is_start_free")
        runs = contestant["runs"]
        return [(run["seconds"] - (0 if counts else run["start_seconds"])) / contestant["num_rows"] for run in runs]

    ratios = [own / other for own, other in zip(times(one), times(first), strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


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


def _median_of(runs: Sequence[dict[str, float]], figure: str) -> float:
    return median(run[figure] for run in runs)
