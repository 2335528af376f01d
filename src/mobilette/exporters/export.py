"""`export` and `export_all`: a model as an artifact of a target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from types import MappingProxyType

from mobilette.arguments import checked
from mobilette.artifact.contract import Measured, Precision
from mobilette.artifact.directory import (
    CONTRACT,
    Artifact,
    is_artifact,
    open_artifact,
    write_artifact,
)
from mobilette.artifact.golden import Golden, golden_inputs
from mobilette.compression.float_layers import check_float_layers
from mobilette.compression.folding import fold
from mobilette.data.normalise import Normalise
from mobilette.data.preprocess import Preprocess
from mobilette.data.reading import Reading
from mobilette.errors import InputError, one_of
from mobilette.exporters.calibration import calibration_images, check_calibration
from mobilette.exporters.coreml import COREML
from mobilette.exporters.executorch import EXECUTORCH
from mobilette.exporters.keras import KERAS
from mobilette.exporters.litert import LITERT
from mobilette.exporters.mcu import MCU
from mobilette.exporters.ncnn import NCNN
from mobilette.exporters.onnx import ONNX, WEB
from mobilette.exporters.openvino import OPENVINO
from mobilette.exporters.readme import readme
from mobilette.exporters.target import (
    Calibration,
    Progress,
    Quantisation,
    Target,
    check_features,
    make_contract,
    no_progress,
    package_versions,
)
from mobilette.folders import check_new, new_directory
from mobilette.model.model import Model
from mobilette.nn.network import Network
from mobilette.progress import SILENT, Reporter
from mobilette.run.directory import Run, open_run
from mobilette.run.inference import checkpoint_logits, features_in_batches
from mobilette.run.subject import Subject, folder_name, resolve

TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        target.name: target
        for target in (ONNX, OPENVINO, LITERT, EXECUTORCH, NCNN, COREML, MCU, WEB, KERAS)
    }
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
    preprocess: Preprocess | None = None,
    classes: Sequence[str] | None = None,
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
        preprocess: for a network: how images are prepared; by default its ``preprocess``.
        classes: for a network: class names in order; by default their numbers.
        reporter: receives the number of images read, and how int8 is calibrated.

    Raises:
        InputError: unknown target or precision, a missing package, no trained weights, no images
            to calibrate with, images that nothing is calibrated with, features of a target that
            has one output, or the artifact cannot be written; nothing is left behind.
    """
    wanted = [(to, check_precision(to, precision))]
    reading = Reading(workers=workers, max_unusable=max_unusable)
    if isinstance(model, str | PathLike):
        model = open_trained_run(model)
    subject = resolve(model, preprocess=preprocess, classes=classes)
    (artifact,) = export_each(
        subject,
        wanted,
        data=data,
        out=out,
        force=force,
        reading=reading,
        reporter=reporter,
        features=features,
    )
    return artifact


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
) -> Iterator[Artifact]:
    """Yield the artifact of each target and precision in ``wanted``, once it is written.

    Folders and packages are checked before images are decoded. Arguments are those of `export`.
    """
    for to, precision in wanted:
        folder = artifact_folder(subject.run or subject.model, to, precision, out)
        check_new(folder, holds=CONTRACT, force=force)
        package_versions(TARGETS[to])
        if features:
            check_features(TARGETS[to])
    calibration = None
    if any(precision == "int8" for _, precision in wanted):
        calibration = calibration_images(
            subject.run or subject.model, data, reading=reading, reporter=reporter
        )
        count = len(calibration.pixels)
        reporter.remark(f"int8 is calibrated with {count} images of {calibration.source}")
    elif data is not None:
        raise InputError("--data names images to calibrate int8 with; nothing here is int8")
    for to, precision in wanted:
        progress(f"exporting to {to}, {precision}", 0, 0)
        yield export_calibrated(
            subject,
            to=to,
            precision=precision,
            calibration=calibration,
            out=out,
            force=force,
            progress=progress,
            features=features,
        )


def export_calibrated(
    source: Run | Model | Subject,
    *,
    to: str = "onnx",
    precision: Precision | None = None,
    calibration: Calibration | None = None,
    quantisation: Quantisation | None = None,
    out: str | Path | None = None,
    moved_to: Path | None = None,
    force: bool = False,
    progress: Progress = no_progress,
    features: bool = False,
) -> Artifact:
    """Write an artifact as `export` does; int8 is made with ``calibration`` and ``quantisation``.

    ``moved_to`` is where the artifact will be moved: its path to the run is relative to this.
    """
    precision, target = check_precision(to, precision), TARGETS[to]
    subject = source if isinstance(source, Subject) else resolve(source)
    model, run = subject
    final = artifact_folder(run or model, to, precision, out)
    quantisation = quantisation or Quantisation()
    if precision != "int8":
        calibration, quantisation = None, Quantisation()
    elif calibration is None:
        raise InputError("no images to calibrate int8 with")
    else:
        check_calibration(calibration, model)
    check_float_layers(model.arch, quantisation.float_layers)
    contract = make_contract(
        subject,
        target,
        precision=precision,
        calibration=calibration,
        quantisation=quantisation,
        final=moved_to or final,
        features=features,
    )
    inputs = golden_inputs(model.arch.in_channels, model.arch.resolution)
    network, normalise = model.network, Normalise(model.preprocess)
    golden = Golden(
        inputs=inputs,
        logits=checkpoint_logits(network, normalise, inputs),
        features=features_in_batches(network, normalise, inputs) if features else None,
    )
    best = run.best() if run is not None else None
    with new_directory(final, holds=CONTRACT, force=force) as folder:
        written = target.writer(quantisation.model or fold(model), contract, calibration, progress)
        write_artifact(
            folder,
            contract=contract,
            files=written.files,
            golden=replace(golden, exact=written.exact),
            readme=readme(contract, target),
            measured=Measured(
                size_bytes=written.size_bytes or sum(map(len, written.files.values())),
                top1=best["top1"] if best is not None else None,
                arena_bytes=written.arena_bytes,
                operators=written.operators,
            ),
        )
    return open_artifact(final)


def check_precision(to: str, precision: str | None) -> Precision:
    """Return ``precision`` if the target ``to`` has it, its usual one for ``None``."""
    target = TARGETS[one_of(to, TARGETS, "target")]
    if precision is None:
        return target.precisions[0]
    known: dict[str, Precision] = {each: each for each in target.precisions}
    return known[one_of(precision, known, f"{to}: precision")]


def target_packages() -> dict[str, dict[str, str] | str]:
    """Return the versions of each target's packages, or the command that installs them."""
    found: dict[str, dict[str, str] | str] = {}
    for name, target in TARGETS.items():
        try:
            versions = package_versions(target)
            found[name] = {package: versions[package] for package in target.packages}
        except InputError:
            found[name] = f"pip install 'mobilette[{target.extra}]'"
    return found


def artifact_folder(
    model: Run | Model, to: str, precision: Precision, out: str | Path | None
) -> Path:
    """Return the directory that `export` writes an artifact to."""
    base = Path(out) if out is not None else Path("exports") / folder_name(model)
    return base / artifact_name(TARGETS[to], precision)


def artifact_name(target: Target, precision: Precision) -> str:
    """Return the name of an artifact's directory, such as ``onnx`` or ``onnx-int8``."""
    return target.name if precision == "fp32" else f"{target.name}-{precision}"


def open_trained_run(path: str | Path) -> Run:
    """Return the run in ``path``; for an artifact, `InputError` names the run it was made from."""
    path = Path(path)
    if not is_artifact(path):
        return open_run(path)
    artifact = open_artifact(path)
    int8 = artifact.contract.precision == "int8"
    what = "quantised already" if int8 else "an artifact, not a run"
    place = f", {artifact.source}" if artifact.contract.source.run else ""
    raise InputError(f"{path}: {what}; give the run it was made from{place}")
