"""`export`: a model as artifacts, each with a temperature of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path

from mobilette.arguments import checked
from mobilette.artifact.contract import Precision
from mobilette.artifact.directory import CONTRACT, Artifact
from mobilette.data.preprocess import Preprocess
from mobilette.data.reading import Reading
from mobilette.errors import InputError
from mobilette.exporters.calibration import IMAGES, calibration_images
from mobilette.exporters.export import (
    TARGETS,
    artifact_folder,
    check_precision,
    export_calibrated,
    open_trained_run,
)
from mobilette.exporters.target import (
    Progress,
    check_bundle,
    check_features,
    no_progress,
    package_versions,
)
from mobilette.folders import check_new, scratch
from mobilette.model.answering import Answering
from mobilette.model.model import Model
from mobilette.nn.network import Network
from mobilette.progress import SILENT, Reporter
from mobilette.run.directory import Run
from mobilette.run.promise import Asked, parse_promise
from mobilette.run.subject import Subject, resolve
from mobilette.workflows.answers import (
    HeldOut,
    asked_of,
    fit,
    held_out,
    place,
    promised,
    why_no_answers,
)


@checked
def export(
    model: str | Path | Run | Model | Network,
    *,
    to: str = "onnx",
    precision: Precision | None = None,
    data: str | Path | None = None,
    out: str | Path | None = None,
    force: bool = False,
    workers: int | None = None,
    max_unusable: float = 0.1,
    features: bool = False,
    bundle: bool = False,
    preprocess: Preprocess | None = None,
    classes: Sequence[str] | None = None,
    promise: str | None = None,
    reporter: Reporter = SILENT,
) -> Artifact:
    """Write the artifact of a model and return it.

    Args:
        model: a run, its directory, a model, or a network trained elsewhere.
        to: the target.
        precision: one of the target's; its first by default.
        data: images to calibrate int8 with; by default the run's training images.
        out: the artifact is written to ``out/<to>``, or ``out/<to>-<precision>`` if not fp32; by
            default ``out`` is ``exports/<name of the run or network>``.
        force: replace an existing artifact.
        workers: processes that decode; by default one per core.
        max_unusable: largest fraction of ``data`` that may be unreadable.
        features: make what the classifier reads a second output, for `Predictor.embed`.
        bundle: of the target web: put onnxruntime-web into the artifact, so that its page needs no
            other address.
        preprocess: for a network: how images are prepared; by default its ``preprocess``.
        classes: for a network: class names in order; by default their numbers.
        promise: of the artifact's answers, such as ``error<=1%`` or ``known>=95%``, kept on images
            that the run held out; by default the run's own. One that cannot be kept is not in the
            contract, and ``reporter`` is told.
        reporter: receives the number of images read, and how int8 is calibrated.

    Raises:
        InputError: unknown target or precision, a missing package, no trained weights, no images
            to calibrate with, images that nothing is calibrated with, features of a target that
            has one output, images too few for ``promise``, or the artifact cannot be written;
            nothing is left behind.
    """
    wanted = [(to, check_precision(to, precision))]
    reading = Reading(workers=workers, max_unusable=max_unusable)
    if isinstance(model, str | PathLike):
        model = open_trained_run(model)
    subject = resolve(model, preprocess=preprocess, classes=classes)
    (exported,) = export_each(
        subject,
        wanted,
        data=data,
        out=out,
        force=force,
        reading=reading,
        reporter=reporter,
        features=features,
        bundle=bundle,
        promise=promise,
    )
    return exported.artifact


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An artifact, and whether it keeps the promise that was asked for, if one was."""

    artifact: Artifact
    promise_kept: bool = True


def export_each(
    subject: Subject,
    wanted: Sequence[tuple[str, Precision]],
    *,
    data: str | Path | None,
    out: str | Path | None,
    force: bool,
    reading: Reading,
    reporter: Reporter,
    progress: Progress = no_progress,
    features: bool = False,
    bundle: bool = False,
    promise: str | None = None,
    calibrated: int = IMAGES,
) -> Iterator[Exported]:
    """Yield the artifact of each target and precision in ``wanted``, once it is written.

    Folders and packages are checked before images are decoded. Arguments are those of `export`;
    int8 is calibrated with up to ``calibrated`` images.
    """
    if promise is not None:
        parse_promise(promise)
    for to, precision in wanted:
        folder = artifact_folder(subject.run or subject.model, to, precision, out)
        check_new(folder, holds=CONTRACT, force=force)
        package_versions(TARGETS[to])
        if features:
            check_features(TARGETS[to])
        if bundle:
            check_bundle(TARGETS[to])
    calibration = None
    if any(precision == "int8" for _, precision in wanted):
        calibration = calibration_images(
            subject.run or subject.model,
            data,
            count=calibrated,
            reading=reading,
            reporter=reporter,
        )
        count = len(calibration.pixels)
        reporter.remark(f"int8 is calibrated with {count} images of {calibration.source}")
    elif data is not None:
        raise InputError("--data names images to calibrate int8 with; nothing here is int8")
    held = None
    for to, precision in wanted:
        progress(f"exporting to {to}, {precision}", 0, 0)
        final = artifact_folder(subject.run or subject.model, to, precision, out)
        write = partial(
            export_calibrated,
            subject,
            to=to,
            precision=precision,
            calibration=calibration,
            progress=progress,
            features=features,
            bundle=bundle,
        )
        if precision == "fp32" and promise is None:
            yield Exported(artifact=write(out=out, force=force))
            continue
        with scratch() as folder:
            made = write(out=folder, moved_to=final)
            kept, answering = True, made.contract.answering
            try:
                if (why_not := why_no_answers(made)) is not None:
                    raise InputError(why_not)
                held = held or _held_out(subject, promise, reading=reading, reporter=reporter)
                fitted = fit(made, *held, reporter)
                kept, answering = fitted.kept, fitted.answering
            except InputError as error:
                if promise is not None:
                    raise
                reporter.remark(f"{final.name}: {_as_in_the_run(answering, error)}")
            artifact = place(made, final, answering, force=force)
        yield Exported(artifact=artifact, promise_kept=kept)


def _held_out(
    subject: Subject, promise: str | None, *, reading: Reading, reporter: Reporter
) -> tuple[HeldOut, Asked | None]:
    """Return the images to fit artifacts on, and what to promise."""
    model, run = subject
    promises = asked_of(model, promise) is not None
    held = held_out(run, promises=promises, reading=reading, reporter=reporter)
    where = model.origin.source if run is None else str(run.path)
    return held, promised(model, promise, held, where=where, reporter=reporter)


def _as_in_the_run(answering: Answering, error: InputError) -> str:
    return f"temperature {answering.temperature:g} as in fp32, and no promise: {error}"
