"""`gatehouse benchmark`: figures of this machine, of Gatehouse and, on request, of others at the same work."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from jobs.terminal import print_table, screen
from pipeline.errors import UsageError
from pipeline.executor import Progress

if TYPE_CHECKING:
    from pipeline.benchmark.rounds import Frame

MIN_ROWS = 1000
MIN_TRAINING_ROWS = 200_000  # a few windows of steps
TRAINING_ROWS = 2_000_000

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
Body = Literal["mmoe", "ple"]
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
    frame, out = _check_frame(rounds, threads, peers, work, out, {"--rows": (rows, MIN_ROWS)})
    if growth and peers:
        raise UsageError("--growth measures Gatehouse alone", "leave --peers out, or --growth")
    from pipeline.benchmark.growth import grow
    from pipeline.benchmark.preprocess import compare

    _show(partial(grow if growth else compare, frame, rows), out)


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
    sizes = {"--requests": (requests, 1), "--candidates": (candidates, 1)}
    frame, out = _check_frame(rounds, threads, peers, work, out, sizes)
    from pipeline.benchmark.score import compare_scoring

    _show(partial(compare_scoring, frame, requests, candidates), out)


@app.command()
def train(
    rows: Annotated[int, typer.Option(help="Rows of the log to train on.", metavar="N")] = TRAINING_ROWS,
    body: Annotated[Body, typer.Option(help="The body of the model.")] = "mmoe",
    rounds: Rounds = 5,
    peers: Annotated[bool, typer.Option("--peers", help="torch-rechub and deepctr-torch train the same.")] = False,
    growth: Annotated[
        bool, typer.Option("--growth", help="The MMoE with one size changed at a time; peers with larger tables.")
    ] = False,
    threads: Threads = None,
    work: Work = DEFAULT_WORK,
    out: Out = None,
) -> None:
    """Measure steps of training in both precisions, how far they are from the least possible, and what is learnt."""
    if growth and (rows, body) != (TRAINING_ROWS, "mmoe"):
        raise UsageError("--growth has rows and a body of its own", "leave --rows and --body out, or --growth")
    frame, out = _check_frame(rounds, threads, peers, work, out, {"--rows": (rows, MIN_TRAINING_ROWS)})
    from pipeline.benchmark.train.contest import compare_training
    from pipeline.benchmark.train.growth import grow_training

    _show(partial(grow_training, frame) if growth else partial(compare_training, frame, body, rows), out)


@app.command()
def evaluate(
    rows: Annotated[int, typer.Option(help="Rows of the log to train on.", metavar="N")] = TRAINING_ROWS,
    rounds: Rounds = 5,
    peers: Annotated[bool, typer.Option("--peers", help="torch-rechub and deepctr-torch predict the same.")] = False,
    threads: Threads = None,
    work: Work = DEFAULT_WORK,
    out: Out = None,
) -> None:
    """Measure the predictions of evaluation in both precisions, and how far apart they are."""
    frame, out = _check_frame(rounds, threads, peers, work, out, {"--rows": (rows, MIN_TRAINING_ROWS)})
    from pipeline.benchmark.evaluate.contest import compare_predicting

    _show(partial(compare_predicting, frame, rows), out)


@app.command()
def read(
    rows: Annotated[int, typer.Option(help="Rows of the log to read.", metavar="N")] = TRAINING_ROWS,
    rounds: Rounds = 5,
    peers: Annotated[
        bool, typer.Option("--peers", help="DataLoader, pyarrow.dataset and Ray Data read the same.")
    ] = False,
    threads: Threads = None,
    work: Work = DEFAULT_WORK,
    out: Out = None,
) -> None:
    """Measure how fast a dataset's shards become shuffled batches, and what part of a training step that is."""
    frame, out = _check_frame(rounds, threads, peers, work, out, {"--rows": (rows, MIN_TRAINING_ROWS)})
    from pipeline.benchmark.read.contest import compare_reading

    _show(partial(compare_reading, frame, rows), out)


def _check_frame(
    rounds: int, threads: int | None, peers: bool, work: Path, out: Path | None, sizes: dict[str, tuple[int, int]]
) -> tuple["Frame", Path]:
    """What every benchmark is given, and the file of records.

    `sizes` has the value and the lowest value of each option that says how much work there is.
    """
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
    from pipeline.benchmark.rounds import Frame

    return Frame(work.absolute(), rounds, num_threads, peers), out


def _show(measure: Callable[[Callable[[str], Progress]], dict[str, Any]], out: Path) -> None:
    """Measures with progress on the screen, shows the figures and saves them."""
    from pipeline.benchmark.page import save, summary_rows

    with screen() as shown:
        found = measure(shown.start_stage)
    print_table(*summary_rows(found))
    print(f"benchmark: {', '.join(map(str, save(found, out)))}")
