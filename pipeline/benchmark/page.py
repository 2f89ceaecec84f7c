"""What is shown of benchmarks: the table of one record on a terminal, and a page with the last record of each kind."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.benchmark.growth import GROWTH, draw_growth
from pipeline.benchmark.preprocess import PREPROCESS
from pipeline.benchmark.rounds import FORMAT
from pipeline.files import write_text

GB = 1e9
EXPLANATIONS = {
    PREPROCESS: """\
From a Parquet log to files ready for training: 26 text categoricals as ids of vocabularies, 13 numbers as standardised
log1p, 2 labels, split by time. Each engine is a process of its own on the same cores; its start is within the time, and
the log is in the page cache. They take turns. Every output was compared with that of gatehouse: vocabularies, rows,
unseen values and nulls of each feature and split, means, and a sample of rows with the ids turned back into texts.
Gatehouse besides checks and profiles the rows, and flushes and hashes its files; the others only encode.
""",
    GROWTH: """\
`gatehouse preprocess`, with its start, on logs that grow in rows, and on logs of one categorical that grow in distinct
values. The bars reach from the lowest round to the highest.
""",
}


def summary_rows(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headers and one row per contestant, medians over the rounds, ranges as "lowest to highest".

    `time` is a multiple of what the first contestant took in the same round.
    """
    contestants = found["contestants"]
    is_contest = found["benchmark"] != GROWTH
    headers = [
        "",
        "version",
        "rows/s",
        "range",
        "start, s",
        "rows/s after it",
        "CPU, s",
        "others' CPU, s",
        "peak RSS, GB",
        "anonymous, GB",
    ]
    headers += ["time"] if is_contest else []
    rows = []
    for one in contestants:
        num_rows, runs = one["num_rows"], one["runs"]
        speeds = [num_rows / run["seconds"] for run in runs]
        row = [
            one["name"],
            ", ".join(v if name == one["name"] else f"{name} {v}" for name, v in one["versions"].items()),
            f"{median(speeds):,.0f}",
            f"{min(speeds):,.0f} to {max(speeds):,.0f}",
            f"{_median_of(runs, 'start_seconds'):.1f}",
            f"{median(num_rows / (run['seconds'] - run['start_seconds']) for run in runs):,.0f}",
            f"{_median_of(runs, 'cpu_seconds'):.1f}",
            f"{_median_of(runs, 'other_cpu_seconds'):.1f}",
            f"{_median_of(runs, 'peak_rss_bytes') / GB:.2f}",
            f"{_median_of(runs, 'peak_anonymous_bytes') / GB:.2f}",
        ]
        if is_contest:
            pairs = zip(runs, contestants[0]["runs"], strict=True)
            times = [own["seconds"] / first["seconds"] for own, first in pairs]
            row.append(f"{median(times):.2f} ({min(times):.2f} to {max(times):.2f})")
        rows.append(row)
    return headers, rows


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
    name, machine, checked = found["benchmark"], found["machine"], found["checked"]
    parts = [
        f"## {name}\n",
        EXPLANATIONS[name],
        f"{found['settings']['rounds']} rounds, {found['num_threads']} threads; finished {found['finished']}, "
        f"revision {found['revision']}.\nMachine: {machine['processor']}, {machine['num_cores']} cores, "
        f"{machine['memory_bytes'] / GB:.0f} GB of memory; a copy reads and writes "
        f"{machine['copy_bytes_per_second'] / GB:.0f} GB/s.",
    ]
    if checked:
        splits = ", ".join(f"{count:,} {split}" for split, count in checked["rows"].items())
        parts.append(
            f"Rows: {splits}; values in the vocabularies: {checked['vocabulary_values']:,}; "
            f"rows in the sample: {checked['sampled_rows']:,}.\n"
            f"Found equal to gatehouse: {', '.join(checked['same_output']) or 'none asked'}."
        )
    if name == GROWTH:
        parts.append(f"\n![speed and memory]({plot_name})")
    return "\n".join([*parts, "", _markdown(*summary_rows(found)), ""])


def _markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    marks = ["---", "---", *["---:"] * (len(headers) - 2)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headers, marks, *rows))


def _median_of(runs: Sequence[dict[str, float]], figure: str) -> float:
    return median(run[figure] for run in runs)
