"""`gatehouse benchmark`: figures of this machine, of Gatehouse and, on request, of others at the same work."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.terminal import print_table, screen
from pipeline.errors import UsageError
from pipeline.executor import Progress

MIN_ROWS = 1000

app = typer.Typer(help="Measure Gatehouse on this machine, also beside others.", no_args_is_help=True)

Rounds = Annotated[int, typer.Option(help="How often each is run, in turns.", metavar="N")]
Threads = Annotated[int | None, typer.Option(help="Default: this machine's cores.", metavar="N")]
Work = Annotated[Path, typer.Option(help="The folder of data and outputs.", metavar="DIR")]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Receives a JSON line; its page and plot lie beside it. Default: results.jsonl of --work.", metavar="FILE"
    ),
]
DEFAULT_WORK = Path("runs/benchmark")


@app.command()
def preprocess(
    rows: Annotated[int, typer.Option(help="Rows of the log.", metavar="N")] = 5_000_000,
    rounds: Rounds = 5,
    peers: Annotated[bool, typer.Option("--peers", help="DuckDB, Polars and pandas do the same work.")] = False,
    growth: Annotated[
        bool, typer.Option("--growth", help="Logs of a fifth to four times the rows, and of more and more values.")
    ] = False,
    threads: Threads = None,
    work: Work = DEFAULT_WORK,
    out: Out = None,
) -> None:
    """Measure preprocessing: speed, start-up, processor time and memory, on a log that is made once."""
    frame = _check_frame(rounds, threads, work, out, {"--rows": (rows, MIN_ROWS)})
    if growth and peers:
        raise UsageError("--growth measures Gatehouse alone", "leave --peers out, or --growth")
    from pipeline.benchmark.growth import grow
    from pipeline.benchmark.preprocess import compare

    def measure(start_stage: Callable[[str], Progress]) -> dict[str, Any]:
        if growth:
            return grow(frame.work, rows, rounds, frame.num_threads, start_stage)
        return compare(frame.work, rows, rounds, frame.num_threads, peers, start_stage)

    _show(measure, frame.out)


@app.command()
def score(
    requests: Annotated[int, typer.Option(help="Requests to rank the candidates of.", metavar="N")] = 10_000,
    candidates: Annotated[int, typer.Option(help="Candidates of each request.", metavar="N")] = 500,
    rounds: Rounds = 5,
    peers: Annotated[bool, typer.Option("--peers", help="torch-rechub and deepctr-torch predict the same.")] = False,
    threads: Threads = None,
    work: Work = DEFAULT_WORK,
    out: Out = None,
) -> None:
    """Measure scoring beside scoring row by row, whose scores must be the same, with a model that is trained once."""
    frame = _check_frame(rounds, threads, work, out, {"--requests": (requests, 1), "--candidates": (candidates, 1)})
    from pipeline.benchmark.score import compare_scoring

    def measure(start_stage: Callable[[str], Progress]) -> dict[str, Any]:
        return compare_scoring(frame.work, requests, candidates, rounds, frame.num_threads, peers, start_stage)

    _show(measure, frame.out)


@dataclass(frozen=True)
class _Frame:
    """What every benchmark is given, checked."""

    num_threads: int
    work: Path
    out: Path


def _check_frame(
    rounds: int, threads: int | None, work: Path, out: Path | None, sizes: dict[str, tuple[int, int]]
) -> _Frame:
    """`sizes` has the value and the lowest value of each option that says how much work there is."""
    num_cores = len(os.sched_getaffinity(0))
    num_threads = num_cores if threads is None else threads
    if not 1 <= num_threads <= num_cores:
        raise UsageError(
            f"--threads is {num_threads}", f"give a number from 1 to the {num_cores} cores of this machine"
        )
    for option, (value, lowest) in {**sizes, "--rounds": (rounds, 1)}.items():
        if value < lowest:
            raise UsageError(f"{option} is {value}", f"give at least {lowest:,}")
    out = out or work / "results.jsonl"
    if out.suffix != ".jsonl":
        raise UsageError(f"--out is {out}", "give a file that ends in .jsonl; its page and plot get other endings")
    return _Frame(num_threads, work.absolute(), out)


def _show(measure: Callable[[Callable[[str], Progress]], dict[str, Any]], out: Path) -> None:
    """Measures with progress on the screen, shows the figures and saves them."""
    from pipeline.benchmark.page import save, summary_rows

    with screen() as shown:
        found = measure(shown.start_stage)
    print_table(*summary_rows(found))
    print(f"benchmark: {', '.join(map(str, save(found, out)))}")
