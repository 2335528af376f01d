"""What the page of a report says of the answers: how many are right, and how sure they are."""

from __future__ import annotations

from typing import Any

from mobilette.errors import visible
from mobilette.reporting import report_charts as charts
from mobilette.reporting.report_view import answers_view, base_name, class_rows
from mobilette.run.promise import percent
from mobilette.workflows.report_answers import Calibration, Measured
from mobilette.workflows.report_measure import APPLIES
from mobilette.workflows.report_values import Report


def measured_parts(report: Report) -> dict[str, Any]:
    """Return the template's values about answers."""
    measured = report.measured
    if measured is None:
        return {"measured": None, "reliability": [], "coverage": ""}
    several = measured.matrix is None
    about = (
        "Precision: how many of its answers are right. Recall: how many of its images are found."
    )
    if several:
        about = (
            f"An image is given every class with a probability of {APPLIES:.0%} or more. {about} "
            "Average precision: how well its images are told from others, whatever the threshold."
        )
    promised = measured.promised
    point = None
    if promised is not None and promised.error is not None:
        point = (promised.coverage, promised.error)
    coverage = ""
    if measured.coverage:
        limit = None if promised is None else promised.promised
        coverage = charts.coverage_curve(measured, limit, point)
    return {
        "measured": True,
        "measured_about": _measured_about(measured),
        "answers": answers_view(measured),
        "classes": class_rows(measured.classes),
        "several": several,
        "classes_about": about,
        "reliability": _reliability(measured.calibration),
        "coverage": coverage,
        "trust_about": list(_trust_about(report, measured)),
    }


def _measured_about(measured: Measured) -> str:
    metrics = measured.metrics
    left_out = (
        f"; {metrics.trained_left_out:,} that it was trained on are left out"
        if metrics.trained_left_out
        else ""
    )
    top5 = "" if metrics.top5 is None else f", top-5 {metrics.top5:.1%}"
    which = f"the {measured.split} images of " if measured.split else ""
    return visible(
        f"One pass of {measured.engine} over {which}{base_name(measured.data)}: {metrics.images:,} "
        f"images{left_out}. Top-1 {metrics.top1:.2%}{top5}, loss {metrics.loss:.3f}."
    )


def _reliability(calibration: Calibration | None) -> list[tuple[str, str, str]]:
    if calibration is None:
        return []
    after = charts.reliability_diagram(
        calibration.after, name="after", error=calibration.error_after
    )
    said = f"{100 * calibration.error_after:.1f} points off on average"
    if calibration.temperature == 1:
        return [("Probabilities", f"{said}; no temperature was fitted.", after)]
    before = charts.reliability_diagram(
        calibration.before, name="before", error=calibration.error_before
    )
    plain = f"{100 * calibration.error_before:.1f} points off on average."
    return [
        ("Before calibration", plain, before),
        ("Calibrated", f"{said}, temperature {calibration.temperature:g}.", after),
    ]


def _trust_about(report: Report, measured: Measured) -> list[str]:
    lines = []
    if measured.calibration is not None:
        lines.append(
            "A bar is how many of the answers with a probability are right, the fainter the fewer; "
            "on the dashed line a probability says just that, and red is how far it is from it."
        )
        if measured.calibration.temperature != 1:
            lines[-1] += " The temperature was fitted on held-out images: others may fare worse."
    promise, found = report.answering.promise, measured.promised
    if promise is not None and found is not None:
        low, high = found.interval
        lines.append(
            f"The promise was made on {promise.pictures:,} images of {visible(promise.split)}: "
            f"at most {percent(promise.error)} of the answers wrong. Here {found.answered:,} are "
            f"answered, and {found.error or 0:.1%} of these wrong (95% interval: {low:.1%} to "
            f"{high:.1%})."
        )
    return lines
