"""`gather`: everything that is known of a run, an artifact or a fit, for its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mobilette.artifact.directory import Artifact, find_artifacts, is_artifact, open_artifact
from mobilette.counting.cost import cost
from mobilette.data.reading import Reading
from mobilette.engines.load import load
from mobilette.engines.predictor import Predictor
from mobilette.errors import InputError, visible
from mobilette.files import read_record
from mobilette.model.model import Model
from mobilette.progress import SILENT, Reporter
from mobilette.run.directory import Run, is_run, open_run, recorded_data
from mobilette.verification.shifts import Robustness, evaluate_shifts, keep, read_robustness
from mobilette.verification.verify import verify as judge
from mobilette.workflows.fit_record import ARTIFACT, FIT, FitRequest, Fitted
from mobilette.workflows.report_answers import Measured
from mobilette.workflows.report_fit import is_fit, read_fit
from mobilette.workflows.report_measure import measure_answers
from mobilette.workflows.report_records import (
    artifact_records,
    find_audit,
    origin_of,
    read_data,
    usual_places,
)
from mobilette.workflows.report_summary import summary, warnings
from mobilette.workflows.report_values import ArtifactRecord, Kind, Report


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a report is asked to show.

    Attributes:
        data: images to measure on; ``None``: those that the run held out.
        artifacts: artifacts, or folders of them, besides those that are found.
        audit: the folder of an audit; ``None``: where `audit` puts it.
        shifts: measure accuracy under shifts if no record has it.
        verify: execute artifacts that no record judges.
        reading: how images are read, and which.
        device: of a run; artifacts run on the CPU.
        threads: of the engine; 0 lets it choose.
    """

    data: str | None = None
    artifacts: tuple[Path, ...] = ()
    audit: Path | None = None
    shifts: bool = False
    verify: bool = False
    reading: Reading = field(default_factory=Reading)
    device: str = "cpu"
    threads: int = 0


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """What a report is about: a run, an artifact, or both."""

    kind: Kind
    path: Path
    run: Run | None
    artifact: Artifact | None
    data: str | None = None  # as a fit was asked for


def gather(
    subject: str | Path | Run | Artifact | Fitted, wishes: Wishes, reporter: Reporter = SILENT
) -> Report:
    """Return the values of a report: records are read, and held-out images answered once.

    Raises:
        InputError: ``subject`` is none of these, one of its files is damaged, or images that
            ``wishes`` names cannot be measured.
    """
    about = _open(subject)
    notes: list[str] = []
    model = None if about.run is None else about.run.model
    artifact = about.artifact
    source = about.run if about.run is not None else artifact
    assert source is not None
    predictor = _predictor(about, wishes, notes)
    data = wishes.data or about.data or (None if about.run is None else _recorded(about.run))
    measured = _measured(predictor, model, data, wishes, notes, reporter)
    shifts = _shifts(about, predictor, data if measured else None, wishes, notes, reporter)
    sha256 = (model.origin.sha256 or "") if model is not None else ""
    if artifact is not None:
        sha256 = artifact.contract.source.weights_sha256
    records = artifact_records(
        wishes.artifacts, usual_places(about.run, artifact), weights_sha256=sha256, notes=notes
    )
    arch = source.arch if isinstance(source, Run) else source.contract.arch
    report = Report(
        name=about.path.resolve().name,
        kind=about.kind,
        path=about.path,
        summary=(),
        warnings=(),
        network=arch.name if model is None else model.origin.name,
        width_mult=None if model is None else model.origin.width_mult,
        arch=arch,
        cost=cost(arch),
        answering=source.answering if isinstance(source, Run) else source.contract.answering,
        history=() if about.run is None else tuple(about.run.history()),
        measured=measured,
        data=None if about.run is None else read_data(about.run),
        audit=find_audit(wishes.audit, data or ""),
        artifacts=_verified(records, measured, wishes, notes, reporter),
        shifts=shifts,
        fit=read_fit(about.path) if about.kind == "fit" else None,
        origin=origin_of(about.run, model, artifact),
        notes=(),
    )
    if not report.artifacts:
        notes.append(f"no artifact was found; 'mobilette export {about.path}' makes one")
    return replace(
        report,
        summary=summary(report),
        warnings=warnings(report),
        notes=tuple(map(visible, notes)),
    )


def _open(subject: str | Path | Run | Artifact | Fitted) -> _Subject:
    if isinstance(subject, Run):
        return _Subject(kind="run", path=subject.path, run=subject, artifact=None)
    if isinstance(subject, Artifact):
        run = open_run(subject.source) if subject.why_no_model() is None else None
        return _Subject(kind="artifact", path=subject.path, run=run, artifact=subject)
    path = subject.path if isinstance(subject, Fitted) else Path(subject)
    if is_fit(path):
        return _open_fit(path)
    if is_artifact(path):
        return _open(open_artifact(path))
    if is_run(path):
        return _open(open_run(path))
    inside = find_artifacts(path)
    named = f"; {', '.join(one.name for one in inside)} in it can be reported on" if inside else ""
    kind = "is no run, artifact or fit" if path.exists() else "does not exist"
    raise InputError(f"{path}: {kind}{named}; give the folder of one")


def _open_fit(path: Path) -> _Subject:
    inside = find_artifacts(path / ARTIFACT)
    if not inside:
        raise InputError(
            f"{path}: this fit has made no artifact yet; 'mobilette fit --resume {path}' goes on"
        )
    found = _open(open_artifact(inside[0]))
    asked = read_record(path / FIT, FitRequest)
    return replace(found, kind="fit", path=path, data=asked.data)


def _recorded(run: Run) -> str | None:
    try:
        return recorded_data(run.path)
    except InputError:  # imported, or of an earlier version
        return None


def _predictor(about: _Subject, wishes: Wishes, notes: list[str]) -> Predictor | None:
    """Return what answers: the artifact's engine or, without it, the run."""
    if about.artifact is not None:
        try:
            return load(about.artifact, threads=wishes.threads)
        except InputError as error:
            if about.run is None:
                notes.append(f"nothing is measured: {error}")
                return None
            notes.append(f"answers are the run's, not the artifact's: {error}")
    assert about.run is not None
    if not about.run.has_classifier:
        notes.append("nothing is measured: it has no classifier")
        return None
    return load(about.run, device=wishes.device, threads=wishes.threads)


def _measured(
    predictor: Predictor | None,
    model: Model | None,
    data: str | None,
    wishes: Wishes,
    notes: list[str],
    reporter: Reporter,
) -> Measured | None:
    if predictor is None:
        return None
    if data is None:
        notes.append("nothing is measured: no images are on record; give DATA")
        return None
    try:
        return measure_answers(predictor, data, wishes.reading, reporter, model=model)
    except InputError as error:
        if wishes.data is not None:
            raise
        notes.append(f"nothing is measured: {error}; give DATA")
        return None


def _shifts(
    about: _Subject,
    predictor: Predictor | None,
    data: str | None,
    wishes: Wishes,
    notes: list[str],
    reporter: Reporter,
) -> Robustness | None:
    """Return the accuracy under shifts on record or, if it is wished for, measured and kept."""
    place = about.artifact.path if about.artifact is not None else about.path
    found = read_robustness(place)
    if found is not None or not wishes.shifts:
        if found is None:
            notes.append(
                "accuracy under blur, noise and other shifts is not measured; --shifts does"
            )
        return found
    if predictor is None or data is None:
        return None
    reading = wishes.reading
    found = evaluate_shifts(
        predictor,
        data,
        split=reading.split,
        include_trained=reading.include_trained,
        workers=reading.workers,
        max_unusable=reading.max_unusable,
        reporter=reporter,
    )
    try:
        keep(found, place)
    except InputError as error:  # a folder that may only be read
        notes.append(f"the accuracy under shifts is not kept beside the model: {error}")
    return found


def _verified(
    records: Sequence[ArtifactRecord],
    measured: Measured | None,
    wishes: Wishes,
    notes: list[str],
    reporter: Reporter,
) -> tuple[ArtifactRecord, ...]:
    """Return ``records`` with those judged that no record judges, if that is wished for."""
    unjudged = [record for record in records if record.verified is None]
    if not wishes.verify:
        if unjudged:
            names = ", ".join(Path(record.path).name for record in unjudged)
            notes.append(f"no record judges {names}; --verify does, and 'mobilette bench' times")
        return tuple(records)
    return tuple(
        _judged(record, measured, wishes, reporter) if record in unjudged else record
        for record in records
    )


def _judged(
    record: ArtifactRecord, measured: Measured | None, wishes: Wishes, reporter: Reporter
) -> ArtifactRecord:
    reading = wishes.reading
    try:
        verdict = judge(
            record.path,
            None if measured is None else measured.data,
            split=reading.split,
            include_trained=reading.include_trained,
            workers=reading.workers,
            max_unusable=reading.max_unusable,
            reporter=reporter,
        )
    except InputError as error:
        return replace(record, by="verify", reasons=(str(error),))
    return replace(
        record,
        verified=verdict.passed,
        by="verify",
        reasons=verdict.failures,
        top1=verdict.accuracy_artifact if verdict.images else record.top1,
        images=verdict.images or record.images,
    )
