"""`gatehouse benchmark preprocess --growth`: the cost as rows and distinct values grow, and the panels of its plot."""

from typing import Any

from pipeline.benchmark.log import VALIDATION_FROM, LogSpec
from pipeline.benchmark.panels import MILLION, Line, Panel
from pipeline.benchmark.preprocess import MIN_COUNT, gatehouse, prepare_job
from pipeline.benchmark.rounds import Frame, StartStage, record, take_rounds
from pipeline.evaluate.page.plots import BLUE, ORANGE

GROWTH = "preprocess-growth"
# Of the rows that are asked for.
ROW_FACTORS = (0.2, 1, 4)
VALUE_FACTORS = (0.002, 0.2, 2)
GB = 1e9


def grow(frame: Frame, num_rows: int, start_stage: StartStage) -> dict[str, Any]:
    """Gatehouse on logs that grow: the record of all figures, as of a comparison of logs instead of engines.

    The wide log has a fifth of `num_rows`, as many, and four times as many. Beside it logs of one categorical, all of
    two and a half times `num_rows`, have 0.002, 0.2 and 2 times as many distinct values, each in the training rows.
    """
    row_counts = [round(num_rows * factor) for factor in ROW_FACTORS]
    value_counts = [round(num_rows * factor) for factor in VALUE_FACTORS]
    # The values take turns: so many rows that the training rows have the largest number of values once.
    tall_rows = round(value_counts[-1] / VALIDATION_FROM)
    logs = [(f"{rows:,} rows", "wide", LogSpec.wide(rows), MIN_COUNT) for rows in row_counts]
    logs += [
        (f"{values:,} values", f"even-{values}", LogSpec(tall_rows, (values,), 0, is_even=True), 1)
        for values in value_counts
    ]
    contestants = []
    for title, name, spec, min_count in logs:
        job = prepare_job(frame.work, name, spec, min_count, frame.num_threads, start_stage(f"log of {title}"))
        contestants.append(gatehouse(frame.work / "growth" / job.log.name, job, title))
    usages = take_rounds(contestants, frame, start_stage("preprocess"))
    settings = {"row_counts": row_counts, "value_counts": value_counts, "tall_rows": tall_rows}
    return record(GROWTH, settings, contestants, usages, frame)


def growth_panels(found: dict[str, Any]) -> list[Panel]:
    """Speed above memory, against rows on the left and against distinct values on the right."""
    settings, points = found["settings"], found["contestants"]
    row_counts, value_counts = settings["row_counts"], settings["value_counts"]
    tall = f"1 categorical, min_count 1, in {settings['tall_rows'] / MILLION:g} M rows"
    sides = (
        (f"26 categoricals, min_count {MIN_COUNT}, and 13 numbers", "rows", row_counts, points[: len(row_counts)]),
        (tall, "distinct values", value_counts, points[len(row_counts) :]),
    )
    speeds, memories = [], []
    for title, label, counts, own in sides:
        rates = [[point["num_rows"] / run["seconds"] / MILLION for run in point["runs"]] for point in own]
        speed = Line(dict(zip(counts, rates, strict=True)), BLUE)
        speeds.append(Panel(label, "million rows/s", (speed,), title))
        lines = []
        for name, color, meaning in (
            ("peak_rss_bytes", ORANGE, "resident, with mapped files"),
            ("peak_anonymous_bytes", BLUE, "anonymous"),
        ):
            peaks = [[run[name] / GB for run in point["runs"]] for point in own]
            lines.append(Line(dict(zip(counts, peaks, strict=True)), color, meaning))
        memories.append(Panel(label, "peak memory, GB", tuple(lines)))
    return speeds + memories
