"""`export` and `export_all`: a model as an artifact of a target."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from types import MappingProxyType

from mobilette.arguments import checked
from mobilette.artifact.contract import Contract, Measured, Precision
from mobilette.artifact.directory import (
    CONTRACT,
    Artifact,
    is_artifact,
    open_artifact,
    write_artifact,
)
from mobilette.data.preprocess import Preprocess
from mobilette.data.reading import Reading
from mobilette.errors import InputError, one_of
from mobilette.exporters.calibration import calibration_images, check_calibration
from mobilette.exporters.coreml import COREML
from mobilette.exporters.executorch import EXECUTORCH
from mobilette.exporters.litert import LITERT
from mobilette.exporters.mcu import MCU
from mobilette.exporters.ncnn import NCNN
from mobilette.exporters.onnx import ONNX, WEB
from mobilette.exporters.openvino import OPENVINO
from mobilette.exporters.readme import readme
from mobilette.exporters.target import (
    Calibration,
    Prepared,
    Progress,
    Quantisation,
    Target,
    make_contract,
    no_progress,
    package_versions,
    prepare,
)
from mobilette.files import read_bytes
from mobilette.folders import new_directory
from mobilette.model.model import Model
from mobilette.nn.network import Network
from mobilette.run.directory import Run, open_run
from mobilette.run.subject import folder_name, resolve

TARGETS: Mapping[str, Target] = MappingProxyType(
    {target.name: target for target in (ONNX, OPENVINO, LITERT, EXECUTORCH, NCNN, COREML, MCU, WEB)}
)


@checked
def export(
    model: str | Path | Run | Model | Network,
    *,
    to: str = "onnx",
    precision: Precision | None = None,
    data: str | Path | None = None,
    calibration: Calibration | None = None,
    quantisation: Quantisation | None = None,
    out: str | Path | None = None,
    moved_to: Path | None = None,
    force: bool = False,
    max_unusable: float = 0.1,
    preprocess: Preprocess | None = None,
    classes: Sequence[str] | None = None,
    progress: Progress = no_progress,
) -> Artifact:
    """Write the artifact of a model and return it.

    Args:
        model: a run, its directory, a model, or a network trained elsewhere.
        to: the target.
        precision: one of the target's; its first by default.
        data: images to calibrate int8 with; by default the run's training images.
        calibration: the result of `calibration_images`, instead of ``data``.
        quantisation: how int8 is made; by default all layers, with the target's own ranges.
        out: the artifact is written to ``out/<to>``, or ``out/<to>-<precision>`` if not fp32; by
            default ``out`` is ``exports/<name of the run or network>``.
        moved_to: where the artifact will be moved; its path to the run is relative to this.
        force: replace an existing artifact.
        max_unusable: largest fraction of ``data`` that may be unreadable.
        preprocess: for a network: how images are prepared; by default its ``preprocess``.
        classes: for a network: class names in order; by default their numbers.
        progress: called with the current step.

    Raises:
        InputError: unknown target or precision, a missing package, no trained weights, no images
            to calibrate with, or the artifact cannot be written; nothing is left behind.
    """
    precision = check_precision(to, precision)
    target = TARGETS[to]
    if isinstance(model, str | PathLike):
        model = open_trained_run(model)
    subject = resolve(model, preprocess=preprocess, classes=classes)
    run = subject.run
    final = artifact_folder(run or subject.model, to, precision, out)
    package_versions(target)
    with new_directory(final, holds=CONTRACT, force=force) as folder:
        if precision != "int8":
            calibration = quantisation = None
        elif calibration is None:
            calibration = calibration_images(
                run or subject.model, data, reading=Reading(max_unusable=max_unusable)
            )
        else:
            check_calibration(calibration, subject.model)
        prepared = prepare(subject.model, quantisation, progress=progress)
        contract = make_contract(
            subject,
            target,
            precision=precision,
            calibration=calibration,
            quantisation=quantisation,
            final=moved_to or final,
        )
        _write(folder, target, prepared, contract, calibration, run)
    return open_artifact(final)


def _write(
    folder: Path,
    target: Target,
    prepared: Prepared,
    contract: Contract,
    calibration: Calibration | None,
    run: Run | None,
) -> None:
    best = run.best() if run is not None else None
    written = target.writer(prepared, contract, calibration)
    write_artifact(
        folder,
        contract=contract,
        files=written.files,
        golden=replace(prepared.golden, exact=written.exact),
        readme=readme(contract, target),
        measured=Measured(
            size_bytes=written.size_bytes or sum(map(len, written.files.values())),
            top1=best["top1"] if best is not None else None,
            arena_bytes=written.arena_bytes,
            operators=written.operators,
        ),
    )


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


@dataclass(frozen=True, kw_only=True)
class Refused:
    """An artifact that was not written, and the reason."""

    target: str
    precision: Precision
    reason: str


def chosen(targets: Iterable[str], precisions: Iterable[str]) -> list[tuple[str, Precision]]:
    """Return each of ``targets`` with each of ``precisions`` that it has."""
    asked = set(precisions)
    return [
        (target, precision)
        for target in targets
        for precision in TARGETS[target].precisions
        if precision in asked
    ]


def export_all(
    run: Run,
    wanted: Iterable[tuple[str, Precision]],
    *,
    calibration: Calibration | None,
    out: Path,
    force: bool = False,
) -> Iterator[Artifact | Refused]:
    """Write artifacts one by one; yield each, or why it was not written.

    ``wanted`` comes from `chosen`; the other options are those of `export`. An artifact made from
    the same weights is kept unless ``force``. int8 needs ``calibration``.
    """
    weights = hashlib.sha256(read_bytes(run.weights_path)).hexdigest()
    for target, precision in wanted:
        folder = out / artifact_name(TARGETS[target], precision)
        try:
            if is_artifact(folder) and not force:
                artifact = open_artifact(folder)
                if artifact.contract.source.weights_sha256 != weights:
                    raise InputError(
                        f"{folder}: made from another run; use another --out, or --force"
                    )
                yield artifact
                continue
            if precision == "int8" and calibration is None:
                raise InputError("no images to calibrate int8 with")
            yield export(
                run, to=target, precision=precision, calibration=calibration, out=out, force=force
            )
        except InputError as error:
            yield Refused(target=target, precision=precision, reason=str(error))


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
