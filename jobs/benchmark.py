"""`gatehouse benchmark`: figures of this machine, of Gatehouse and, on request, of other engines at the same work."""

import os
from pathlib import Path
from typing import Annotated

import typer

from jobs.terminal import print_table, screen
from pipeline.errors import UsageError

MIN_ROWS = 1000

app = typer.Typer(help="Measure Gatehouse on this machine, also beside other engines.", no_args_is_help=True)


@app.command()
def preprocess(
    rows: Annotated[int, typer.Option(help="Rows of the log.", metavar="N")] = 5_000_000,
    rounds: Annotated[int, typer.Option(help="How often each is run, in turns.", metavar="N")] = 5,
    peers: Annotated[bool, typer.Option("--peers", help="DuckDB, Polars and pandas do the same work.")] = False,
    growth: Annotated[
        bool, typer.Option("--growth", help="Logs of a fifth to four times the rows, and of more and more values.")
    ] = False,
    threads: Annotated[int | None, typer.Option(help="Default: this machine's cores.", metavar="N")] = None,
    work: Annotated[Path, typer.Option(help="The folder of logs and outputs.", metavar="DIR")] = Path("runs/benchmark"),
    out: Annotated[
        Path | None,
        typer.Option(help="Receives a JSON line; its page and plot lie beside it. Default: results.jsonl of --work.",
                     metavar="FILE"),
    ] = None,
) -> None:  # fmt: skip
    """Measure preprocessing: speed, start-up, processor time and memory, on a log that is made once."""
    num_cores = len(os.sched_getaffinity(0))
    num_threads = num_cores if threads is None else threads
    if not 1 <= num_threads <= num_cores:
        raise UsageError(
            f"--threads is {num_threads}", f"give a number from 1 to the {num_cores} cores of this machine"
        )
    for option, value, lowest in (("--rows", rows, MIN_ROWS), ("--rounds", rounds, 1)):
        if value < lowest:
            raise UsageError(f"{option} is {value}", f"give at least {lowest:,}")
    out = out or work / "results.jsonl"
    if out.suffix != ".jsonl":
        raise UsageError(f"--out is {out}", "give a file that ends in .jsonl; its page and plot get other endings")
    if growth and peers:
        raise UsageError("--growth measures Gatehouse alone", "leave --peers out, or --growth")
    from pipeline.benchmark.growth import grow
    from pipeline.benchmark.page import save, summary_rows
    from pipeline.benchmark.preprocess import compare

    work = work.absolute()
    with screen() as shown:
        if growth:
            found = grow(work, rows, rounds, num_threads, shown.start_stage)
        else:
            found = compare(work, rows, rounds, num_threads, peers, shown.start_stage)
    print_table(*summary_rows(found))
    written = save(found, out)
    print(f"benchmark: {', '.join(map(str, written))}")
