"""A report in three lines: what the model is, how often it is right, and when it is silent."""

from __future__ import annotations

from pathlib import Path

from mobilette.arch.scale import size_of
from mobilette.counting.amounts import human_bytes, human_count
from mobilette.run.promise import percent
from mobilette.workflows.report_answers import ClassScore, Measured
from mobilette.workflows.report_values import Report

FEW = 5  # images of a class, below which its recall says little


def summary(report: Report) -> tuple[str, ...]:
    """Return the three lines, each a sentence or two."""
    return (_what(report), _right(report), _silent(report))


def _what(report: Report) -> str:
    height, width = size_of(report.arch.resolution)
    name = report.network
    if report.width_mult not in (None, 1.0):
        name += f" ×{report.width_mult:g}"
    counted = report.cost
    return (
        f"{name}: tells {report.arch.num_classes:,} classes apart in images of {height}×{width} "
        f"pixels with {human_count(counted.params)} parameters and {human_count(counted.madds)} "
        f"mult-adds ({human_bytes(counted.size_bytes.fp32)} in fp32)."
    )


def _right(report: Report) -> str:
    measured = report.measured
    if measured is None:
        return "Nothing was measured: how often it is right is not known here."
    metrics = measured.metrics
    which = {
        False: "that it was not trained on",
        True: "among them some that it was trained on",
        None: "of which it is not known whether it was trained on them",
    }[metrics.includes_trained]
    low, high = measured.interval
    text = (
        f"Right on {metrics.top1:.1%} of {metrics.images:,} images {which} "
        f"(95% interval: {low:.1%} to {high:.1%})"
    )
    if metrics.mean_average_precision is not None:
        text = (
            f"Mean average precision {metrics.mean_average_precision:.1%}, and a true class first "
            f"in {metrics.top1:.1%}, of {metrics.images:,} images {which}"
        )
    worst = weakest(measured)
    if worst is not None and worst.recall is not None and worst.recall < 1:
        text += f"; weakest at “{worst.name}”, of which it finds {worst.right} of {worst.images}"
    return f"{text}."


def weakest(measured: Measured) -> ClassScore | None:
    """Return the class of which the smallest part is found, among those with enough images."""
    some = [one for one in measured.classes if one.images >= FEW]
    return min(some, key=lambda one: (one.right / one.images, -one.images), default=None)


def _silent(report: Report) -> str:
    promise, measured = report.answering.promise, report.measured
    if promise is not None:
        text = (
            f"Promises that at most {percent(promise.error)} of the answers it gives are wrong, "
            f"with {promise.confidence:.0%} confidence"
        )
        if promise.threshold * report.arch.num_classes > 1:
            text += f", by saying “unknown” when it is less than {promise.threshold:.1%} sure"
        else:  # the best class is always as probable as that
            text += ", for which it need not stay silent"
        found = None if measured is None else measured.promised
        if found is not None:
            error = "none" if not found.error else f"{found.error:.1%}"
            text += f"; here it answers {found.coverage:.1%}, and {error} of that is wrong"
        return f"{text}."
    calibration = None if measured is None else measured.calibration
    if calibration is None:
        return "Makes no promise: it answers every image, however unsure it is."
    return (
        "Makes no promise: it answers every image, however unsure it is; its probabilities are "
        f"{100 * calibration.error_after:.1f} points off on average."
    )


def warnings(report: Report) -> tuple[str, ...]:
    """Return what lowers the trust in the model, one line each."""
    lines = []
    measured = report.measured
    if measured is not None:
        lines += _of_classes(measured)
        found = measured.promised
        if found is not None and found.interval[0] > found.promised:
            lines.append(
                f"The promise does not hold on these images: {found.error or 0:.1%} of the answers "
                f"are wrong, {percent(found.promised)} were promised."
            )
    for record in report.artifacts:
        if record.verified is False:
            why = f": {record.reasons[0]}" if record.reasons else ""
            lines.append(f"{Path(record.path).name} does not answer as it was trained{why}.")
    return tuple(lines)


def _of_classes(measured: Measured) -> list[str]:
    lines = []
    total = sum(one.images for one in measured.classes)
    largest = max(measured.classes, key=lambda one: one.images)
    if measured.matrix is not None and measured.interval[0] <= largest.images / max(total, 1):
        lines.append(
            f"Perhaps no better than always answering “{largest.name}”, the largest class: "
            f"{largest.images / total:.1%} of the images."
        )
    absent = [one.name for one in measured.classes if not one.images]
    if absent:
        some = ", ".join(absent[:FEW]) + (", …" if len(absent) > FEW else "")
        lines.append(f"No image of {len(absent):,} of the classes was measured: {some}.")
    few = [one.name for one in measured.classes if 0 < one.images < FEW]
    if few:
        some = ", ".join(few[:FEW]) + (", …" if len(few) > FEW else "")
        lines.append(f"Fewer than {FEW} images of {some}: their numbers say little.")
    return lines
