"""What a person sees: plain lines where no one watches, bars on a terminal, tables in both."""

import io
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from jobs import terminal
from jobs.terminal import PLAIN_LINE_SECONDS, PLAIN_WIDTH, print_report, print_table, screen


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


def set_clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still until its `now` is changed."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(terminal, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_a_stage_is_two_plain_lines_where_no_one_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with screen() as shown:
        show = shown.start_stage("score")
        for done in range(1, 2_001):
            show("requests ranked", done, 2_000)
    assert lines(capsys) == ["score ...", "score: 2,000 of 2,000, requests ranked (0 s)"]


def test_a_long_stage_says_now_and_then_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = set_clock(monkeypatch)
    with screen() as shown:
        show = shown.start_stage("train")
        for step in range(1, 101):
            clock.now += PLAIN_LINE_SECONDS / 40
            show(f"loss {1 / step:.2f}", step, 1_000)
    assert lines(capsys) == [
        "train ...",
        "train: 40 of 1,000, loss 0.03 (10 s)",
        "train: 80 of 1,000, loss 0.01 (20 s)",
    ]


def test_every_stage_has_lines_of_its_own(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = set_clock(monkeypatch)
    with screen() as shown:
        for name in ("preprocess", "train"):
            show = shown.start_stage(name)
            clock.now += 3
            show("parts", 1, 1)
    assert lines(capsys) == [
        "preprocess ...",
        "preprocess: 1 of 1, parts (3 s)",
        "train ...",
        "train: 1 of 1, parts (6 s)",
    ]


def fail_in_a_stage() -> None:
    with screen() as shown:
        shown.start_stage("train")("loss 0.25", 3, 7)
        raise ValueError("broken")


def test_a_failure_inside_the_screen_is_raised(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="broken"):
        fail_in_a_stage()
    assert lines(capsys) == ["train ..."]


def test_a_terminal_shows_a_bar_per_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = watch(monkeypatch)
    with screen() as shown:
        for name, note in (("train", "loss 0.25"), ("score", "requests ranked")):
            show = shown.start_stage(name)
            for done in range(1, 8):
                show(note, done, 7)
    last = watched.text().replace("\r", "\n").splitlines()[-2:]
    assert [line.split()[0] for line in last] == ["train", "score"]
    assert "7/7" in last[0]
    assert last[0].rstrip().endswith("loss 0.25")
    assert last[1].rstrip().endswith("requests ranked")
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


def test_a_report_is_a_row_per_measured_task(capsys: pytest.CaptureFixture[str]) -> None:
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
    print_report({"tasks": tasks, "alarms": ["an expert is dead"]})
    headers, *rows, warning = lines(capsys)
    assert headers.split()[0] == "task"
    assert warning == "warning: an expert is dead"
    assert [row.split()[0] for row in rows] == ["click", "like"]
    assert all("12,345" in row and "0.75" in row for row in rows)
