"""What a person sees: progress bars on a terminal, a few plain lines elsewhere, tables, one line for an error."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from pipeline.executor import Progress

PLAIN_LINE_SECONDS = 10.0
PLAIN_WIDTH = 160
# Speed is that of about so long, so that a slow start is forgotten.
PACE_SECONDS = 30.0

# Called with a note, how many are done, how many there are, and the time left or taken.
_Draw = Callable[[str, int, int, str], None]


class _Point(NamedTuple):
    seconds: float
    done: int
    num_units: int


class Pace:
    """How fast a phase of a stage goes; over the whole phase when it is complete."""

    def __init__(self, done: int, total: int, num_units: int) -> None:
        self.total = total
        self.first = _Point(time.monotonic(), done, num_units)
        self.recent = deque([self.first])

    def is_of(self, done: int, total: int) -> bool:
        """Whether this is the same phase: another one has another total, or begins again."""
        return total == self.total and done >= self.recent[-1].done

    def add(self, done: int, num_units: int) -> None:
        if done == self.recent[-1].done:
            return
        now = time.monotonic()
        self.recent.append(_Point(now, done, num_units))
        while len(self.recent) > 2 and self.recent[1].seconds <= now - PACE_SECONDS:
            self.recent.popleft()

    def describe(self, unit: str) -> tuple[str, str]:
        """The speed, and the time left or, of a complete phase, taken; both empty before anything is done."""
        last = self.recent[-1]
        before = self.first if last.done == self.total else self.recent[0]
        seconds = last.seconds - before.seconds
        if not seconds:
            return "", ""
        rate = f"{_three_digits((last.num_units - before.num_units) / seconds)} {unit}/s"
        if last.done == self.total:
            return rate, f"in {_duration(seconds)}"
        return rate, f"{_duration((self.total - last.done) * seconds / (last.done - before.done))} left"


class Screen:
    """Shows one stage after the other, and each phase of a stage by itself."""

    def __init__(self, bars: Bars | None) -> None:
        self.bars = bars

    def start_stage(self, name: str) -> Progress:
        """A function that shows the progress of a stage, for the stage to call."""
        if self.bars is None:
            print(f"{name} ...", flush=True)
        draw = self._start_phase(name)
        pace: Pace | None = None

        def show(what: str, done: int, total: int, num_units: int, unit: str) -> None:
            nonlocal draw, pace
            if pace is not None and not pace.is_of(done, total):
                draw, pace = self._start_phase(name), None
            pace = pace or Pace(done, total, num_units)
            pace.add(done, num_units)
            rate, duration = pace.describe(unit)
            counted = f"{_short(num_units)} {unit}" if num_units and unit != what else ""
            draw(", ".join(filter(None, (what, counted, rate))), done, total, duration)

        return show

    def _start_phase(self, name: str) -> _Draw:
        return _lines(name) if self.bars is None else _bar(self.bars, name)


def _bar(bars: Bars, name: str) -> _Draw:
    task = bars.add_task(name, total=None, note="", duration="")

    def draw(note: str, done: int, total: int, duration: str) -> None:
        bars.update(task, completed=done, total=total, note=note, duration=duration)

    return draw


def _lines(name: str) -> _Draw:
    """A plain line now and then, and at the end."""
    last_seconds, last_line = time.monotonic(), ""

    def draw(note: str, done: int, total: int, duration: str) -> None:
        nonlocal last_seconds, last_line
        line = ", ".join(filter(None, (f"{name}: {done:,} of {total:,} {note}", duration)))
        is_due = done == total or time.monotonic() - last_seconds >= PLAIN_LINE_SECONDS
        if is_due and line != last_line:
            last_seconds, last_line = time.monotonic(), line
            print(line, flush=True)

    return draw


def _short(count: float) -> str:
    for size, sign in ((1e9, " G"), (1e6, " M")):
        if count >= size:
            return f"{count / size:.1f}{sign}"
    return f"{count:,.0f}" if count >= 100 else f"{count:.3g}"


def _three_digits(rate: float) -> str:
    return _short(float(f"{rate:.3g}"))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@contextmanager
def screen() -> Iterator[Screen]:
    """Progress bars while the block runs, if a person is watching."""
    if not sys.stdout.isatty():
        yield Screen(None)
        return
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[duration]}"),
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
    """The summary of an evaluation: a short table with a row per measured task, and a sentence on each."""
    from pipeline.evaluate.report.report import summary_rows
    from pipeline.train.checkpoints.lineage import describe_newer_values

    headers, rows = summary_rows(report)
    print_table(headers, rows)
    for sentence in report["summary"]:
        print(sentence)
    print_alarms(report["alarms"])
    print_alarms(describe_newer_values(report["newer_values"]))


def print_alarms(alarms: Sequence[str]) -> None:
    """What a run noticed, one line each."""
    for alarm in alarms:
        print(f"warning: {alarm}")


def console(width: int | None = None) -> Console:
    return Console(width=width, soft_wrap=False, highlight=False)
