"""The page of a report, `report.html`: one file that opens offline, with every table and plot in it."""

import base64
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.evaluate.page.data import data_section
from pipeline.evaluate.page.diagnostics import (
    SCORES_CAPTION,
    correlation_figures,
    gates_by_slice,
    importance_section,
    score_figures,
    similarity_figures,
    table_alarms,
    tables_section,
)
from pipeline.evaluate.page.environment import TEMPLATES, open_templates
from pipeline.evaluate.page.inspections import cosine_panels, expert_levels, gradient_figures
from pipeline.evaluate.page.plots import draw_calibration, draw_training
from pipeline.evaluate.page.slices import slices_section
from pipeline.evaluate.page.summary import summary_section
from pipeline.evaluate.report.wording import UNDEFINED, format_value, measured_on
from pipeline.files import write_text
from pipeline.train.checkpoints.lineage import describe_newer_values

MAX_ALARMS = 8
CALIBRATION_CAPTION = (
    "A dot above the dashed line means that it happened more often than predicted; each dot stands for about the same "
    "number of rows, and its bar is a 95% interval."
)
LOSSES_CAPTION = (
    "Lower is better, and validation rising while train (averaged over neighbouring steps) falls is overfitting; train "
    "losses of the first tenth of the steps may lie above the frame."
)
TITLES = {
    "summary": "Summary",
    "slices": "Slices",
    "predictions": "Predictions",
    "features": "Feature importance",
    "experts": "Experts",
    "tables": "Embedding tables",
    "training": "Training",
    "data": "Data",
    "ranked": "Ranked candidates",
}


def render_html(
    report: Mapping[str, Any],
    path: Path,
    training_history: Sequence[Mapping[str, Any]],
    inspections: Sequence[Mapping[str, Any]],
    ranked_sample: Mapping[str, Any] | None,
    statistics: Mapping[str, Any] | None = None,
) -> None:
    """Writes the report as one page that needs no other file and no network; equal input gives equal bytes.

    `training_history` has one record per measured step: {"step", "epoch", "kind": "train" or "validation", "losses":
    {task: loss}, "total"}; a later record of the same step and kind replaces an earlier one. `inspections` are the
    records of inspections.jsonl, in order of steps. `ranked_sample` is {"columns", "rows"}, with the request in the
    first column. `statistics` is the content of the dataset's statistics.json.
    """
    environment = open_templates()
    environment.filters["format_cell"] = _format_cell
    sections = {
        "summary": summary_section(report),
        "slices": slices_section(report),
        "predictions": _prediction_groups(report),
        "features": importance_section(report["diagnostics"]),
        "experts": _expert_levels(report, inspections),
        "tables": tables_section(report["diagnostics"]),
        "training": _training_section(training_history, inspections),
        "data": data_section(statistics) if statistics else None,
        "ranked": ranked_sample,
    }
    notices = _notices(report, sections)
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    page = environment.get_template("report.html.j2").render(
        report=report,
        sections={name: section for name, section in sections.items() if section or name in notices},
        titles=TITLES,
        notices=notices,
        max_alarms=MAX_ALARMS,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    write_text(path, page)


def _notices(report: Mapping[str, Any], sections: Mapping[str, Any]) -> dict[str, list[tuple[str, list[str]]]]:
    """Where a person must act, by section: what it is about, and each finding in words."""
    summary, slices, data = (sections[name] for name in ("summary", "slices", "data"))
    seesaw = (report["gain"] or {}).get("seesaw", ())
    drift, quarantine = (data["drift"], data["quarantine"] or {}) if data else ([], {})
    left_out, rows = (f"{quarantine.get(name, 0):,}" for name in ("quarantined", "rows"))
    found = {
        "summary": [
            ("Worse than the baseline", [one["text"] for one in summary["sentences"] if one["verdict"] == "worse"]),
            ("Worse while other tasks are better, a seesaw", list(seesaw)),
        ],
        "slices": [("Slices that are significantly worse than the baseline", slices["worse"] if slices else [])],
        "experts": [
            (f"On the {report['split']} split", list(report["diagnostics"].get("alarms", ()))),
            ("At the last inspection of the training, on one batch", report["alarms"]),
        ],
        "tables": [("Damaged rows", table_alarms(report["diagnostics"]))],
        "data": [
            ("The data have grown since the training of the model", describe_newer_values(report["newer_values"])),
            (f"Drift from {data['previous'] if data else ''}", drift),
            (
                f"{left_out} of {rows} rows are left out, in quarantine",
                [
                    f"{entry['reason']}: {entry['rows']:,} rows, the first {entry['first']}"
                    for entry in quarantine.get("reasons", ())
                ],
            ),
        ],
    }
    shown = {name: [(about, list(lines)) for about, lines in groups if lines] for name, groups in found.items()}
    return {name: groups for name, groups in shown.items() if groups}


def _prediction_groups(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    calibration = [
        _figure(task["name"], draw_calibration(task), measured_on(task))
        for task in report["tasks"]
        if task["calibration_curve"]
    ]
    groups = (
        ("Calibration", CALIBRATION_CAPTION, calibration),
        ("Scores by label", SCORES_CAPTION, score_figures(report)),
        ("How tasks go together", "", correlation_figures(report["diagnostics"])),
    )
    return [{"title": title, "caption": caption, "figures": figures} for title, caption, figures in groups if figures]


def _expert_levels(report: Mapping[str, Any], inspections: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            **level,
            "figures": level["figures"] + similarity_figures(level["name"], report["diagnostics"]),
            "by_slice": gates_by_slice(level["name"], report["diagnostics"]),
        }
        for level in expert_levels(report["mixtures"], inspections, report["split"])
    ]


def _training_section(
    history: Sequence[Mapping[str, Any]], inspections: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    losses = [
        _figure(name, draw_training(name, curves["train"], curves["validation"]))
        for name, curves in _loss_curves(history).items()
    ]
    section = {
        "losses": {"caption": LOSSES_CAPTION, "figures": losses} if losses else None,
        "gradients": gradient_figures(inspections),
        "cosines": cosine_panels(inspections),
    }
    return section if any(section.values()) else None


def _figure(title: str, svg: str, about: str = "") -> dict[str, str]:
    return {"title": title, "about": about, "svg": Markup(svg), "caption": ""}


def _loss_curves(history: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, dict[int, float]]]:
    """Loss by name, kind and step, in order of step; the total only where there are several tasks."""
    curves: dict[str, dict[str, dict[int, float]]] = {}
    for record in sorted(history, key=lambda record: record["step"]):
        losses = dict(record["losses"])
        if len(losses) > 1:
            losses["all tasks"] = record["total"]
        for name, loss in losses.items():
            if loss is not None and math.isfinite(loss):
                curves.setdefault(name, {"train": {}, "validation": {}})[record["kind"]][record["step"]] = loss
    return curves


def _format_cell(value: object) -> str:
    return UNDEFINED if value is None else format_value(value) if isinstance(value, float) else str(value)
