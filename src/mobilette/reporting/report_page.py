"""A report as one HTML file: no network, nothing beside it."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

import mobilette
from mobilette.counting.amounts import human_bytes, human_count
from mobilette.errors import visible
from mobilette.places import named_in
from mobilette.reporting import report_charts as charts
from mobilette.reporting.diagram import diagram
from mobilette.reporting.report_answers import measured_parts
from mobilette.reporting.report_view import artifact_rows, base_name, count_rows, key_figures
from mobilette.workflows.report_values import AuditRecord, Report

_TITLES = {
    "fit": "The race",
    "answers": "Answers",
    "trust": "How sure",
    "shifts": "Shifts",
    "training": "Training",
    "data": "Images",
    "artifacts": "Artifacts",
    "network": "Network",
    "again": "Make it again",
    "missing": "Not here",
}
_KINDS = {"run": "a run", "artifact": "an artifact", "fit": "a fit"}
_LEFT_OUT = 50  # files that are named


def report_page(report: Report) -> str:
    """Return the page, with its pictures in it."""
    script = _text("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    values = {
        "version": mobilette.__version__,
        "title": f"{visible(report.name)}: Mobilette report",
        "script": script,
        "script_hash": digest,
        "style": _text("report.css"),
        "kind": _KINDS[report.kind],
        "name": visible(report.name),
        "summary": list(map(visible, report.summary)),
        "warnings": list(map(visible, report.warnings)),
        "figures": key_figures(report),
        **_fit(report),
        **measured_parts(report),
        **_shifts(report),
        **_training(report),
        **_data(report),
        "artifacts": artifact_rows(report),
        "artifacts_chart": charts.artifacts_chart(report.artifacts),
        **_network(report),
        **_again(report),
        "notes": [visible(named_in(line)) for line in report.notes],
    }
    there = {
        "fit": values["fit"],
        "answers": values["measured"],
        "trust": values["reliability"] or values["coverage"],
        "shifts": values["shifts"],
        "training": values["curves"],
        "data": values["data"],
        "artifacts": values["artifacts"],
        "network": True,
        "again": True,
        "missing": values["notes"],
    }
    values["sections"] = [(id, title) for id, title in _TITLES.items() if there[id]]
    return _template().render(values)


def _fit(report: Report) -> dict[str, Any]:
    fit = report.fit
    if fit is None:
        return {"fit": None}
    rows = [
        {
            "key": visible(one.key),
            "top1": "-" if one.top1 is None else f"{one.top1:.1%}",
            "trained": f"{one.seconds:.0f} s",
            "size": human_bytes(one.size_bytes),
            "madds": human_count(one.madds),
            "verdict": visible(one.verdict),
            "chosen": one.key == fit.chosen,
        }
        for one in fit.candidates
    ]
    return {
        "fit": {"why": visible(fit.why)},
        "fit_terms": [(visible(text), measured, met) for text, measured, met in fit.terms],
        "fit_chart": charts.fit_chart(fit),
        "candidates": rows,
        "fit_fitting": f"{fit.fitting:,}",
    }


def _shifts(report: Report) -> dict[str, Any]:
    found = report.shifts
    if found is None:
        return {"shifts": ""}
    about = (
        f"Accuracy when the same {found.images:,} images are blurred, darkened, compressed and "
        f"so on, as a camera would: {found.unshifted:.1%} without, {found.mean:.1%} on average. "
        "The grey band is the 95% interval without a shift."
    )
    return {"shifts": charts.shifts_chart(found), "shifts_about": about}


def _training(report: Report) -> dict[str, Any]:
    history = report.history
    if len(history) < 2:
        return {"curves": []}
    last = history[-1]
    score = "mean_average_precision" if "mean_average_precision" in last else "top1"
    best = max(history, key=lambda row: row[score])
    about = (
        f"{last['epoch']:g} epochs in {last['seconds']:,.0f} s, {last['images_per_second']:,.0f} "
        f"images per second. The weights are those after epoch {best['epoch']:g}, which held-out "
        "images chose."
    )
    drawn = [("Accuracy", charts.accuracy_curve(history)), ("Loss", charts.loss_curve(history))]
    return {"curves": drawn, "training_about": about}


def _data(report: Report) -> dict[str, Any]:
    data = report.data
    if data is None:
        return {"data": None}
    parts = ", ".join(f"{count:,} in {split}" for split, count in data.images.items())
    about = [
        f"{base_name(data.source)}: {parts}. Divided by: {data.rule or 'the folders of the set'}."
    ]
    if data.duplicates is not None:
        copies = f"{data.duplicates:,} are" if data.duplicates != 1 else "1 is"
        if data.duplicates:
            about.append(f"Of those to train on, {copies} a copy of another.")
    if data.ignored:
        about.append(f"{data.ignored:,} files of the folder are no images of the set.")
    heading, rows = count_rows(report)
    audit = report.audit
    return {
        "data": True,
        "data_about": [visible(line) for line in (*about, *data.remarks)],
        "count_heading": heading,
        "count_rows": rows,
        "left_out": [(visible(a), visible(b)) for a, b in data.left_out[:_LEFT_OUT]],
        "left_out_count": f"{len(data.left_out):,} unreadable",
        "left_out_more": max(0, len(data.left_out) - _LEFT_OUT),
        "audit": audit is not None,
        "findings": [] if audit is None else _findings(audit),
        "audit_about": "" if audit is None else visible(f"{audit.folder}, of {audit.source}"),
    }


def _findings(audit: AuditRecord) -> list[tuple[str, str, list[str]]]:
    """Return a row per kind: what it is, how many there are, and the surest ones."""
    return [
        (what, f"{count:,}", list(map(visible, audit.surest[what])))
        for what, count in audit.counts.items()
    ]


def _network(report: Report) -> dict[str, Any]:
    layers = [
        (
            visible(one.name),
            one.kind,
            "×".join(map(str, one.shape)),
            f"{one.params:,}",
            f"{one.madds:,}",
        )
        for one in report.cost.layers
    ]
    return {"diagram": diagram(report.arch, width_mult=report.width_mult), "layers": layers}


def _again(report: Report) -> dict[str, Any]:
    origin = report.origin
    facts = [("started from", origin.start)] if origin.start else []
    facts += [(name.replace("_", " "), text) for name, text in origin.facts.items()]
    facts += [("versions", ", ".join(f"{a} {b}" for a, b in origin.versions.items()))]
    if report.data is not None:
        facts.append(("fingerprint of the images", report.data.fingerprint))
    facts.append(("SHA-256 of the weights", origin.weights_sha256))
    recipe = visible_lines(origin.recipe)
    seed = next((line for line in recipe.splitlines() if line.startswith("seed")), "")
    facts += [("seed", seed.partition("=")[2].strip())] if seed else []
    return {
        "command": visible(origin.command),
        "facts": [(name, visible(text)) for name, text in facts if text],
        "recipe": recipe,
    }


def visible_lines(text: str) -> str:
    """Return ``text`` with its lines, and other control characters escaped."""
    return "\n".join(map(visible, text.splitlines()))


def _text(name: str) -> str:
    return files("mobilette.reporting").joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_text("report.html"))
