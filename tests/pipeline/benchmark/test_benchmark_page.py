"""The table and the page of benchmarks, from records that were made up."""

import json
from pathlib import Path
from typing import Any

from pipeline.benchmark.page import save, summary_rows
from pipeline.benchmark.rounds import FORMAT


def _runs(*seconds: float) -> list[dict[str, float]]:
    figures = {"start_seconds": 0.5, "cpu_seconds": 3.0, "other_cpu_seconds": 0.1}
    memory = {"peak_rss_bytes": 2.5e9, "peak_anonymous_bytes": 1.25e9}
    return [{"seconds": one, **figures, **memory} for one in seconds]


def _record(benchmark: str, contestants: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    machine = {"processor": "Abacus", "num_cores": 2, "memory_bytes": 8e9, "copy_bytes_per_second": 2e10}
    checked = {"rows": {"train": 800}, "vocabulary_values": 77, "sampled_rows": 1000, "same_output": ["duckdb"]}
    about = {"finished": "2026-01-02T03:04:05+00:00", "revision": "abc", "num_threads": 2, "settings": {"rounds": 3}}
    return {
        "format": FORMAT,
        "benchmark": benchmark,
        "machine": machine,
        "checked": checked,
        **about,
        "contestants": contestants,
        **changes,
    }


OURS = {"name": "gatehouse", "versions": {"gatehouse": "0.1.0", "pyarrow": "9"}, "num_rows": 1000}
THEIRS = {"name": "duckdb", "versions": {"duckdb": "2.0.0"}, "num_rows": 1000}


def test_the_table_has_medians_and_times_are_compared_within_a_round() -> None:
    contest = _record("preprocess", [{**OURS, "runs": _runs(1, 2, 4)}, {**THEIRS, "runs": _runs(3, 2, 5)}])
    headers, rows = summary_rows(contest)
    ours, theirs = (dict(zip(headers, row, strict=True)) for row in rows)
    assert ours["version"] == "0.1.0, pyarrow 9"
    assert (ours["rows/s"], ours["range"]) == ("500", "250 to 1,000")
    assert ours["rows/s after it"] == "667"
    assert (ours["peak RSS, GB"], ours["anonymous, GB"]) == ("2.50", "1.25")
    assert ours["time"] == ours["time after start"] == "1.00 (1.00 to 1.00)"
    assert theirs["version"] == "2.0.0"
    assert theirs["time"] == "1.25 (1.00 to 3.00)"


def test_times_are_compared_per_row_and_a_start_that_is_free_does_not_count() -> None:
    peer = {"name": "peer, as shipped", "versions": {"peer": "3.0"}, "num_rows": 500, "is_start_free": True}
    contest = _record("score", [{**OURS, "runs": _runs(2)}, {**peer, "runs": _runs(4)}])
    headers, rows = summary_rows(contest)
    theirs = dict(zip(headers, rows[1], strict=True))
    assert theirs["version"] == "3.0"
    assert (theirs["candidates/s"], theirs["candidates/s after it"]) == ("125", "143")
    assert theirs["time"] == "3.50 (3.50 to 3.50)"
    assert theirs["time after start"] == "4.67 (4.67 to 4.67)"


def test_logs_that_grow_are_not_compared_with_each_other() -> None:
    headers, _ = summary_rows(_record("preprocess-growth", [{**OURS, "runs": _runs(1)}]))
    assert "time" not in headers


def test_a_page_has_the_last_record_of_each_benchmark(tmp_path: Path) -> None:
    out = tmp_path / "new" / "speed.jsonl"
    out.parent.mkdir()
    out.write_text(json.dumps({"format": 0, "benchmark": "preprocess"}) + "\n")
    for seconds in (1.0, 4.0):
        contest = _record("preprocess", [{**OURS, "runs": _runs(seconds)}, {**THEIRS, "runs": _runs(2)}])
        assert save(contest, out) == [out, tmp_path / "new" / "speed.md"]
    points = [{**OURS, "name": f"{n} rows", "num_rows": n, "runs": _runs(1, 2)} for n in (10, 100, 20, 20)]
    settings = {"rounds": 2, "row_counts": [10, 100], "value_counts": [5, 10], "tall_rows": 20}
    growth = _record("preprocess-growth", points, settings=settings, checked=None)
    plot = tmp_path / "new" / "speed.svg"
    assert save(growth, out)[-1] == plot
    lines = out.read_text().splitlines()
    assert json.loads(lines[-1]) == growth
    assert len(lines) == 4
    page = out.with_suffix(".md").read_text()
    assert page.count("| gatehouse | 0.1.0, pyarrow 9 | 250 | 250 to 250 |") == 1
    assert "![speed and memory](speed.svg)" in page
    assert "Machine: Abacus, 2 cores, 8 GB of memory" in page
    assert plot.read_text().count("million rows/s") == 2
    before = plot.read_bytes()
    save(growth, out)
    assert plot.read_bytes() == before
