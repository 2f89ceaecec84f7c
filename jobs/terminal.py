"""What a person sees: progress bars on a terminal, a few plain lines elsewhere, tables, one line for an error."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from pipeline.executor import Progress

PLAIN_LINE_SECONDS = 10.0
PLAIN_WIDTH = 160


class Screen:
    """Shows one stage after the other."""

    def __init__(self, bars: Bars | None) -> None:
        self.bars = bars
        self.started = time.monotonic()

    def start_stage(self, name: str) -> Progress:
        """A function that shows the progress of a stage, for the stage to call."""
        if self.bars is None:
            return self._plain(name)
        bars, task = self.bars, self.bars.add_task(name, total=None, note="")

        def show(note: str, done: int, total: int) -> None:
            bars.update(task, completed=done, total=total, note=note)

        return show

    def _plain(self, name: str) -> Progress:
        print(f"{name} ...", flush=True)
        last = time.monotonic()

        def show(note: str, done: int, total: int) -> None:
            nonlocal last
            if done == total or time.monotonic() - last >= PLAIN_LINE_SECONDS:
                last = time.monotonic()
                print(f"{name}: {done:,} of {total:,}, {note} ({last - self.started:.0f} s)", flush=True)

        return show


@contextmanager
def screen() -> Iterator[Screen]:
    """Progress bars while the block runs, if a person is watching."""
    if not sys.stdout.isatty():
        yield Screen(None)
        return
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bars(*columns, console=Console()) as bars:
        yield Screen(bars)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table with the first two columns to the left and numbers to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, header in enumerate(headers):
        table.add_column(header, justify="left" if place < 2 else "right", no_wrap=place == 0)
    for row in rows:
        table.add_row(*map(escape, row))
    console(width=None if sys.stdout.isatty() else PLAIN_WIDTH).print(table)


def print_report(report: dict[str, Any]) -> None:
    """The summary of an evaluation: a short table, one row per measured task."""
    from pipeline.evaluate.report import summary_rows

    headers, rows = summary_rows(report)
    print_table(headers, rows)
    print_alarms(report["alarms"])


def print_alarms(alarms: Sequence[str]) -> None:
    """What a run noticed about its experts, one line each."""
    for alarm in alarms:
        print(f"warning: {alarm}")


def console(width: int | None = None) -> Console:
    return Console(width=width, soft_wrap=False, highlight=False)
