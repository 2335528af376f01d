"""A report as a model card: Markdown with the front matter that Hugging Face's hub reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import mobilette
from mobilette.counting.amounts import human_bytes
from mobilette.errors import visible
from mobilette.reporting.report_view import artifact_rows, class_rows, key_figures
from mobilette.workflows.report_values import Report

CLASSES = 50  # that are listed


def model_card(
    report: Report, *, licence: str | None = None, address: str = "hf://OWNER/NAME"
) -> str:
    """Return the card of a model.

    Args:
        report: what is known of it.
        licence: the hub's identifier of one, if there is one.
        address: where the model will be.
    """
    head = _front_matter(report, licence)
    return "\n".join(["---", *head, "---", "", *_body(report, address)]) + "\n"


def _front_matter(report: Report, licence: str | None) -> Iterator[str]:
    """Yield lines of YAML; every text is written as JSON, which YAML contains."""
    if licence is not None:
        yield f"license: {_quoted(licence)}"
    yield "library_name: mobilette"
    yield "pipeline_tag: image-classification"
    targets = dict.fromkeys(one.target for one in report.artifacts)
    yield "tags:"
    for tag in ("image-classification", "mobilette", report.network, *targets):
        yield f"- {_quoted(tag)}"
    measured = report.measured
    if measured is None:
        return
    metrics = measured.metrics
    yield "metrics:"
    yield "- accuracy"
    yield "model-index:"
    yield f"- name: {_quoted(report.name)}"
    yield "  results:"
    yield "  - task:"
    yield "      type: image-classification"
    yield "    dataset:"
    name = Path(measured.data).name or measured.data
    yield f"      name: {_quoted(name)}"
    yield f"      type: {_quoted(name)}"
    if measured.split:
        yield f"      split: {_quoted(measured.split)}"
    yield "    metrics:"
    yield from _metric("accuracy", "top-1", metrics.top1)
    if metrics.top5 is not None:
        yield from _metric("accuracy", "top-5", metrics.top5)
    if metrics.mean_average_precision is not None:
        yield from _metric("mAP", "mean average precision", metrics.mean_average_precision)
    if measured.calibration is not None:
        error = measured.calibration.error_after
        yield from _metric("ece", "expected calibration error", error)


def _metric(kind: str, name: str, value: float) -> Iterator[str]:
    yield f"    - type: {kind}"
    yield f"      name: {_quoted(name)}"
    yield f"      value: {round(value, 6)}"


def _quoted(text: str) -> str:
    return json.dumps(visible(text), ensure_ascii=False)


def _body(report: Report, address: str) -> Iterator[str]:
    yield f"# {_plain(report.name)}"
    yield ""
    for line in report.summary:
        yield _plain(line)
        yield ""
    if report.warnings:
        yield "What lowers the trust:"
        yield ""
        yield from (f"- {_plain(line)}" for line in report.warnings)
        yield ""
    yield "## Figures"
    yield ""
    yield from _table(("figure", "value", ""), key_figures(report))
    measured = report.measured
    if measured is not None:
        yield "## Classes"
        yield ""
        rows = [row[:5] for row in class_rows(measured.classes)]
        recall = "recall" if measured.matrix is not None else "average precision"
        heading = ("class", "precision", recall, "95% interval", "images")
        yield from _table(heading, rows[:CLASSES])
        if len(rows) > CLASSES:
            yield f"{len(rows) - CLASSES:,} more classes are not listed."
            yield ""
    if report.shifts is not None:
        worst = min(report.shifts.rows, key=lambda row: row.score)
        yield "## Under everyday shifts"
        yield ""
        yield (
            f"{report.shifts.unshifted:.1%} without a shift, {report.shifts.mean:.1%} on average "
            f"under twelve shifts, {worst.score:.1%} under the worst ({worst.shift}, strength "
            f"{worst.strength})."
        )
        yield ""
    if report.artifacts:
        yield "## Artifacts"
        yield ""
        rows_ = [
            (Path(path).name, target, precision, verdict, top1, latency, size)
            for path, target, precision, verdict, _, top1, latency, _, size, _ in artifact_rows(
                report
            )
        ]
        heading_ = ("artifact", "target", "precision", "verdict", "top-1", "latency", "size")
        yield from _table(heading_, rows_)
    yield from _origin(report, address)


def _origin(report: Report, address: str) -> Iterator[str]:
    origin = report.origin
    yield "## Use"
    yield ""
    yield "```python"
    yield "import mobilette"
    yield ""
    yield f'model = mobilette.load("{address}")'
    yield 'print(model.predict(["picture.jpg"])[0].label)'
    yield "```"
    yield ""
    yield "## Training"
    yield ""
    if report.data is not None:
        totals = ", ".join(f"{count:,} in {split}" for split, count in report.data.images.items())
        yield f"Images: {totals}; fingerprint `{_plain(report.data.fingerprint)}`."
        yield ""
    if origin.command:
        yield "```sh"
        yield visible(origin.command).replace("```", "")
        yield "```"
        yield ""
    size = human_bytes(report.cost.size_bytes.fp32)
    yield f"Weights: {size} in fp32, SHA-256 `{_plain(origin.weights_sha256)}`."
    yield ""
    yield f"Made by Mobilette {mobilette.__version__}."


def _table(heading: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(heading)} |"
    yield f"|{'---|' * len(heading)}"
    for row in rows:
        yield f"| {' | '.join(map(_plain, row))} |"
    yield ""


def _plain(text: str) -> str:
    """Return ``text`` as Markdown shows it: no markup, no HTML, one line."""
    escaped = "".join(f"\\{sign}" if sign in "\\`*_[]|<>#~" else sign for sign in visible(text))
    return escaped.replace("&", "&amp;")
