"""What the simulated month says: the page and the plot, from a record of each slot."""

import argparse
import os
import platform
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from faulty_log import FAULTS, slot_of_day
from matplotlib.figure import Figure
from numpy.typing import NDArray

TASKS = ("click", "like")
POLICIES = ("gate", "no gate", "never")
LABELS = {"gate": "retrained, with the gate", "no gate": "retrained, without a gate", "never": "never retrained"}
COLORS = {"gate": "#1f5a96", "no gate": "#c2570c", "never": "#6b7785"}

Floats = NDArray[np.float64]


def losses(records: list[dict[str, Any]], policy: str, task: str) -> Floats:
    """By how much AUC the model in use is below the best possible: [days]."""
    return np.array([record["best"][task] - record[policy][task] for record in records])


def is_touched(record: dict[str, Any]) -> bool:
    """Whether a slot was measured or trained on a bad day."""
    return any(fault in (record["day"] - 1, record["day"] - 2) for fault in FAULTS)


def to_markdown(records: list[dict[str, Any]], given: argparse.Namespace, seconds: float) -> str:
    refused = [record for record in records if not record["promoted"]]
    lines = [
        "# A simulated month of daily retraining",
        "",
        f"{len(records)} slots of {given.rows:,} rows a day, whose truth turns by {given.drift:g} radians a day beside "
        "the 0.02 that it always does;",
        "`simulated_month.py` says how it is made. Made by `python infra/benchmarks/simulated_month.py --slots "
        f"{given.slots} --rows {given.rows}",
        f"--drift {given.drift:g}` in {seconds / 60:.1f} minutes on {os.cpu_count()} CPU cores "
        f"({platform.machine()}){given.beside}; {np.median([r['seconds'] for r in records]):.0f} seconds for a slot of "
        "`retrain`.",
        "",
        "![quality](simulated_month.svg)",
        "",
        f"Of {len(records)} challengers {len(records) - len(refused)} were promoted and {len(refused)} refused, "
        f"{sum(map(is_touched, refused))} of those in the {sum(map(is_touched, records))} slots that were measured or "
        "trained on a bad day.",
        "AUC below the best possible, of the model in use on each day, in thousandths:",
        "",
        "| policy | click, mean | click, worst day | like, mean | like, worst day |",
        "|---|---|---|---|---|",
    ]
    for policy in POLICIES:
        cells = []
        for task in TASKS:
            lost = 1000 * losses(records, policy, task)
            cells += [f"{lost.mean():.1f}", f"{lost.max():.1f}"]
        lines.append(f"| {LABELS[policy]} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| bad day | what was wrong | slot that it was fresh in | slot that trained on it |",
        "|---|---|---|---|",
    ]
    by_day = {record["day"]: record for record in records}
    for day, (what, _) in FAULTS.items():
        verdicts = [
            _verdict(by_day[later]) if later in by_day else "after the last one" for later in (day + 1, day + 2)
        ]
        lines.append(f"| {slot_of_day(day):%Y-%m-%d} | {what} | " + " | ".join(verdicts) + " |")
    lines += ["", "| slot | refused because |", "|---|---|"]
    for record in refused:
        reasons = [rule["reason"].replace("|", "/") for rule in record["refusals"]]
        more = f"; {len(reasons) - 2} more" if len(reasons) > 2 else ""
        lines.append(f"| {record['slot']} | {'; '.join(reasons[:2])}{more} |")
    return "\n".join(lines) + "\n"


def _verdict(record: dict[str, Any]) -> str:
    return f"{record['slot']}: {'promoted' if record['promoted'] else 'refused'}"


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """The AUC of the model in use on each day, by policy, beside the best possible; marks bad days and refusals."""
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "month", "font.size": 9, "axes.spines.top": False,
                  "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6eaee"}  # fmt: skip
    days = np.array([record["day"] - records[0]["day"] + 1 for record in records])
    first = records[0]["day"] - 1
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(10.5, 5.6), layout="constrained")
        panels = figure.subplots(len(TASKS), 1, sharex=True)
        for axes, task in zip(panels, TASKS, strict=True):
            axes.plot(
                days, [record["best"][task] for record in records], color="#20262c", linewidth=1, label="best possible"
            )
            for policy in reversed(POLICIES):
                values = np.array([record[policy][task] for record in records])
                axes.plot(days, values, color=COLORS[policy], linewidth=1.6, label=LABELS[policy])
                if policy == "gate":
                    is_refused = np.array([not record["promoted"] for record in records])
                    mark: Any = {"color": COLORS[policy], "zorder": 3, "clip_on": False}
                    axes.plot(
                        days[is_refused], values[is_refused], "o", markerfacecolor="white", label="refused", **mark
                    )
            for day, (what, _) in FAULTS.items():
                if day > records[-1]["day"]:
                    continue
                # The rows of a day are fresh for the slot at its end.
                axes.axvspan(day - first, day - first + 1, color="#f3dfa8", alpha=0.6, linewidth=0)
                if axes is panels[0]:
                    axes.annotate(what, (day - first + 0.5, 1.0), xycoords=("data", "axes fraction"), fontsize=8,
                                  ha="center", va="bottom")  # fmt: skip
            axes.set_ylabel(f"AUC of {task}")
            axes.margins(x=0.01)
        panels[0].set_title(
            "expected AUC of the model in use, on each day as it should have been", fontsize=9, loc="left", pad=16
        )
        panels[-1].set_xlabel("slot; bad days of the log in yellow")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False)
        figure.savefig(path, metadata={"Date": None})
