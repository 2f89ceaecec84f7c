"""`gatehouse simulate`: a feed log with a known truth."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from jobs.options import Overwrite
from jobs.terminal import screen
from pipeline.errors import UsageError

# What a simulation, whole or interrupted, consists of.
PARTS = {"log", "truth", "users.parquet", "items.parquet", "candidates.parquet", "simulation.json"}


def main(
    out: Annotated[Path, typer.Option(help="The folder to write.", metavar="DIR")],
    rows: Annotated[int, typer.Option(help="Impressions in the log.")] = 700_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 1,
    task_correlation: Annotated[float, typer.Option(help="0: tasks are unrelated; 1: they agree.")] = 0.6,
    days: Annotated[int, typer.Option(help="Days the log spans.")] = 7,
    drift: Annotated[
        float, typer.Option(help="Radians by which each day turns what users like, beside a little.")
    ] = 0.0,
    overwrite: Overwrite = False,
) -> None:
    """Make a feed log with user and item tables, and the true probability of every row beside it."""
    from pipeline.simulate.run import simulate

    if overwrite and out.exists():
        strange = sorted(path.name for path in out.iterdir() if path.name not in PARTS and path.suffix != ".partial")
        if strange:
            raise UsageError(f"{out} holds {strange[0]}, which is not part of a simulation", "give another folder")
        shutil.rmtree(out)
    with screen() as shown:
        show = shown.start_stage("simulate")
        written = 0

        def count(new_rows: int) -> None:
            nonlocal written
            written += new_rows
            show("rows", written, rows, written, "rows")

        simulate(out, rows, seed, task_correlation, days, drift=drift, progress=count)
    print(f"simulated log: {out} ({rows:,} rows)")
