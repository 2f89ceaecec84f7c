"""What a person sees: plain lines where no one watches, bars on a terminal, tables in both."""

import io
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from jobs import terminal
from jobs.terminal import PACE_SECONDS, PLAIN_LINE_SECONDS, PLAIN_WIDTH, Pace, print_report, print_table, screen


class Terminal(io.StringIO):
    """A standard output that a person watches."""

    def isatty(self) -> bool:
        return True

    def text(self) -> str:
        """What was written, without the codes that colour it and move the cursor."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())


def watch(monkeypatch: pytest.MonkeyPatch, columns: int = 120) -> Terminal:
    """Puts a terminal in the place of standard output; called in a test itself, since pytest swaps it before each."""
    output = Terminal()
    monkeypatch.setattr(sys, "stdout", output)
    for name, value in {"TERM": "xterm", "COLUMNS": str(columns), "LINES": "40"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return output


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still until its `now` is changed."""
    stopped = SimpleNamespace(now=100.0)
    monkeypatch.setattr(terminal, "time", SimpleNamespace(monotonic=lambda: stopped.now))
    return stopped


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


@pytest.mark.usefixtures("clock")
def test_a_stage_is_two_plain_lines_where_no_one_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with screen() as shown:
        show = shown.start_stage("score")
        for done in range(2_001):
            show("requests ranked", done, 2_000, 100 * done, "candidates")
    assert lines(capsys) == ["score ...", "score: 2,000 of 2,000 requests ranked, 200,000 candidates"]


def test_a_long_stage_says_now_and_then_how_far_it_is(
    capsys: pytest.CaptureFixture[str], clock: SimpleNamespace
) -> None:
    with screen() as shown:
        show = shown.start_stage("train")
        show("steps", 0, 1_000, 0, "samples")
        for step in range(1, 101):
            clock.now += PLAIN_LINE_SECONDS / 40
            show(f"steps, loss {1 / step:.2f}", step, 1_000, 256 * step, "samples")
    assert lines(capsys) == [
        "train ...",
        "train: 40 of 1,000 steps, loss 0.03, 10,240 samples, 1,020 samples/s, 4 min left",
        "train: 80 of 1,000 steps, loss 0.01, 20,480 samples, 1,020 samples/s, 4 min left",
    ]


def test_every_phase_ends_with_a_line_of_its_own(capsys: pytest.CaptureFixture[str], clock: SimpleNamespace) -> None:
    with screen() as shown:
        for name, phases in (("preprocess", ("partitions read", "shards written")), ("evaluate", ("batches",))):
            show = shown.start_stage(name)
            clock.now += 3
            for what in phases:
                show(what, 0, 4, 0, "rows")
                for done in range(1, 5):
                    clock.now += 1
                    show(what, done, 4, 1_234_567 * done, "rows")
    assert lines(capsys) == [
        "preprocess ...",
        "preprocess: 4 of 4 partitions read, 4.9 M rows, 1.2 M rows/s, in 4.0 s",
        "preprocess: 4 of 4 shards written, 4.9 M rows, 1.2 M rows/s, in 4.0 s",
        "evaluate ...",
        "evaluate: 4 of 4 batches, 4.9 M rows, 1.2 M rows/s, in 4.0 s",
    ]


def test_a_phase_that_goes_on_from_the_middle_is_measured_from_there(
    capsys: pytest.CaptureFixture[str], clock: SimpleNamespace
) -> None:
    with screen() as shown:
        show = shown.start_stage("train")
        show("shards fetched", 3, 3, 900, "rows")
        show("steps", 500, 1_000, 5_000, "samples")
        clock.now += PLAIN_LINE_SECONDS
        show("steps", 510, 1_000, 5_100, "samples")
    assert lines(capsys) == [
        "train ...",
        "train: 3 of 3 shards fetched, 900 rows",
        "train: 510 of 1,000 steps, 5,100 samples, 10 samples/s, 8 min left",
    ]


def test_what_is_shown_again_and_again_is_one_line(capsys: pytest.CaptureFixture[str], clock: SimpleNamespace) -> None:
    with screen() as shown:
        show = shown.start_stage("train")
        for _ in range(100):
            clock.now += PLAIN_LINE_SECONDS
            show("steps, loss 0.25", 7, 7, 0, "samples")
    assert lines(capsys) == ["train ...", "train: 7 of 7 steps, loss 0.25"]


def test_speed_is_that_of_late_and_does_not_count_what_was_there_before(clock: SimpleNamespace) -> None:
    pace = Pace(done=500, total=1_000, num_units=5_000)
    assert pace.describe("rows") == ("", "")
    for done, seconds in ((501, 4 * PACE_SECONDS), (511, 10), (521, 10), (531, 10), (531, 10 * PACE_SECONDS)):
        clock.now += seconds
        pace.add(done, 10 * done)
    assert pace.describe("rows") == ("10 rows/s", "8 min left")


@pytest.mark.parametrize(
    ("seconds", "rate", "duration"),
    [
        (0.5, "25.0 M rows/s", "0.5 s left"),
        (40.0, "312,000 rows/s", "40 s left"),
        (400.0, "31,200 rows/s", "7 min left"),
        (40_000.0, "312 rows/s", "11.1 h left"),
        (4e6, "3.12 rows/s", "1111.1 h left"),
    ],
)
def test_speed_has_three_digits_and_time_a_unit_that_fits(
    clock: SimpleNamespace, seconds: float, rate: str, duration: str
) -> None:
    pace = Pace(0, 10, 0)
    clock.now += seconds
    pace.add(5, 12_500_000)
    assert pace.describe("rows") == (rate, duration)


def fail_in_a_stage() -> None:
    with screen() as shown:
        shown.start_stage("train")("steps, loss 0.25", 3, 7, 0, "samples")
        raise ValueError("broken")


def test_a_failure_inside_the_screen_is_raised(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="broken"):
        fail_in_a_stage()
    assert lines(capsys) == ["train ..."]


def test_a_terminal_shows_a_bar_per_phase(monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace) -> None:
    watched = watch(monkeypatch)
    with screen() as shown:
        for name, notes in (("preprocess", ("partitions read", "shards written")), ("train", ("steps, loss 0.25",))):
            show = shown.start_stage(name)
            for note in notes:
                for done in range(8):
                    clock.now += 1
                    show(note, done, 7, 1_000 * done, "rows")
    last = [line.split() for line in watched.text().replace("\r", "\n").splitlines()[-3:]]
    assert [line[0] for line in last] == ["preprocess", "preprocess", "train"]
    assert all("7/7" in line for line in last)
    assert " ".join(last[0][-9:]) == "in 7.0 s partitions read, 7,000 rows, 1,000 rows/s"
    assert "\x1b[" in watched.getvalue()


def test_a_bar_is_left_whole_when_a_stage_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = watch(monkeypatch)
    with pytest.raises(ValueError, match="broken"):
        fail_in_a_stage()
    assert "3/7" in watched.text()
    assert watched.text().endswith("\n")
    assert watched.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is shown again


def test_a_table_has_texts_to_the_left_and_numbers_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(
        ["task", "measured on", "rows", "AUC"], [["click", "all", "1,000", "0.75"], ["purchase", "clicks", "9", ""]]
    )
    assert [line.rstrip() for line in lines(capsys)] == [
        "task      measured on   rows   AUC",
        "click     all          1,000  0.75",
        "purchase  clicks           9",
    ]


def test_a_table_off_a_terminal_has_no_codes_and_a_fixed_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    print_table(["check", "found"], [["torch", "word " * 28], ["ray", "2.60"]])
    out = lines(capsys)
    assert len(out) == 3
    assert all(len(line) <= PLAIN_WIDTH for line in out)
    assert "\x1b" not in "".join(out)


def test_a_narrow_terminal_folds_what_is_found_but_not_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = watch(monkeypatch, columns=30)
    print_table(["check", "found"], [["a long name", "word " * 12]])
    out = watched.text().splitlines()
    assert len(out) > 3
    assert all(len(line) <= 30 for line in out)
    assert out[1].startswith("a long name")


def test_a_table_without_rows_is_its_headers(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["task", "rows"], [])
    assert [line.split() for line in lines(capsys)] == [["task", "rows"]]


def test_a_report_is_a_row_and_a_sentence_per_measured_task(capsys: pytest.CaptureFixture[str]) -> None:
    auc = {"value": 0.75, "best": 0.8, "fraction_of_best": 0.83, "reason": None}
    tasks: list[dict[str, Any]] = [
        {
            "name": name,
            "kind": "binary",
            "space": None,
            "scope": "own space",
            "rows": 12_345,
            "positives": positives,
            "metrics": {"auc": auc},
        }
        for name, positives in (("click", 4_000), ("like", 70))
    ]
    newer = {"item_id": {"values": 9_000, "newer": 108}, "user_id": {"values": 9_000, "newer": 0}}
    summary = ["click: AUC 0.7500", "like: AUC 0.7500"]
    report = {"tasks": tasks, "baseline": None, "summary": summary}
    print_report({**report, "alarms": ["an expert is dead"], "newer_values": newer})
    headers, *rows, first, second, alarm, warning = lines(capsys)
    assert [first, second] == summary
    assert headers.split()[0] == "task"
    assert alarm == "warning: an expert is dead"
    assert warning == ("warning: item_id: 108 of 9,000 values (1.2%) are newer than the model and count as unseen")
    assert [row.split()[0] for row in rows] == ["click", "like"]
    assert all("12,345" in row and "0.75" in row for row in rows)
