"""`report`: what is known of a model, as a page that opens from disk and as a model card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mobilette.arguments import checked
from mobilette.artifact.directory import Artifact
from mobilette.data.reading import Reading
from mobilette.errors import InputError, one_of
from mobilette.files import check_new_file, write_bytes
from mobilette.limits import THREADS
from mobilette.progress import SILENT, Reporter
from mobilette.reporting.model_card import model_card
from mobilette.reporting.report_page import report_page
from mobilette.run.directory import Run
from mobilette.workflows.fit_record import Fitted
from mobilette.workflows.report import Wishes, gather
from mobilette.workflows.report_values import Report

PAGE, CARD = ".html", ".md"
NAME = "report.html"


@checked
def report(
    subject: str | Path | Run | Artifact | Fitted,
    data: str | Path | None = None,
    *,
    out: str | Path | None = None,
    artifacts: Sequence[str | Path] = (),
    audit: str | Path | None = None,
    shifts: bool = False,
    verify: bool = False,
    licence: str | None = None,
    split: str | None = None,
    include_trained: bool = False,
    device: str = "cpu",
    threads: int = 0,
    workers: int | None = None,
    max_unusable: float = 0.1,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> Report:
    """Return what is known of a run, an artifact or a fit, measured on held-out images in one pass.

    Args:
        subject: a run, an artifact, the result of `fit`, or the folder of one.
        data: images of the model's classes; by default those that the run was trained with, of
            which the held-out ones are measured.
        out: also write a page (``.html``) or a model card (``.md``).
        artifacts: artifacts or folders of them, besides those in ``exports/``.
        audit: the folder of an audit; by default the one in ``audits/``, if there is one.
        shifts: also measure it under everyday shifts, unless that is on record.
        verify: also execute artifacts that no record judges.
        licence: of the model, for the card.
        split: as for `evaluate`.
        include_trained: as for `evaluate`.
        device: of a run; artifacts are executed on the CPU.
        threads: engine threads; 0 lets the engine choose.
        workers: decoding processes; by default one per core.
        max_unusable: fraction of the images that may be unusable.
        force: replace ``out`` if it exists.
        reporter: receives the progress of reading, and remarks.

    Raises:
        InputError: the subject, the images or a record cannot be used, or ``out`` cannot be
            written.
    """
    if threads != 0:
        THREADS.check("threads", threads)
    place = None if out is None else check_out(Path(out), force=force)
    if isinstance(artifacts, str | Path):
        raise InputError("report: artifacts is one path; give a list of them")
    wishes = Wishes(
        data=None if data is None else str(data),
        artifacts=tuple(map(Path, artifacts)),
        audit=None if audit is None else Path(audit),
        shifts=shifts,
        verify=verify,
        reading=Reading(
            workers=workers, max_unusable=max_unusable, split=split, include_trained=include_trained
        ),
        device=device,
        threads=threads,
    )
    found = gather(subject, wishes, reporter)
    if place is not None:
        write_report(found, place, licence=licence)
    return found


def check_out(out: Path, *, force: bool) -> Path:
    """Return ``out``; `InputError` unless `write_report` can write it."""
    one_of(out.suffix.lower(), (PAGE, CARD), f"{out}: the suffix")
    check_new_file(out, force=force)
    return out


def write_report(report: Report, out: Path, *, licence: str | None = None) -> Path:
    """Write the page or, to a name that ends in ``.md``, the model card, and return ``out``."""
    is_card = out.suffix.lower() == CARD
    text = model_card(report, licence=licence) if is_card else report_page(report)
    write_bytes(out, text.encode(errors="backslashreplace"))
    return out
