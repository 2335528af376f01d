"""`export_calibrated`: a model as an artifact of a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

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
from mobilette.errors import InputError, one_of
from mobilette.exporters.calibration import check_calibration
from mobilette.exporters.coreml import COREML
from mobilette.exporters.executorch import EXECUTORCH
from mobilette.exporters.keras import KERAS
from mobilette.exporters.litert import LITERT
from mobilette.exporters.mcu import MCU
from mobilette.exporters.ncnn import NCNN
from mobilette.exporters.onnx import ONNX
from mobilette.exporters.openvino import OPENVINO
from mobilette.exporters.readme import readme
from mobilette.exporters.target import (
    Calibration,
    Progress,
    Quantisation,
    Target,
    make_contract,
    no_progress,
    package_versions,
)
from mobilette.exporters.web import WEB
from mobilette.folders import new_directory
from mobilette.model.model import Model
from mobilette.run.directory import Run, open_run
from mobilette.run.inference import features_in_batches, logits_in_batches
from mobilette.run.subject import Subject, folder_name, resolve

TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        target.name: target
        for target in (ONNX, OPENVINO, LITERT, EXECUTORCH, NCNN, COREML, MCU, WEB, KERAS)
    }
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
    bundle: bool = False,
) -> Artifact:
    """Write an artifact; int8 is made with ``calibration`` and ``quantisation``.

    It has the model's temperature and, in fp32, its promise. ``moved_to`` is where the artifact
    will be moved: its path to the run is relative to this.
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
        bundle=bundle,
    )
    inputs = golden_inputs(model.arch.in_channels, model.arch.resolution)
    network, normalise = model.network, Normalise(model.preprocess)
    # Not as the checkpoint runs elsewhere (`for_inference`), so that `verify` also compares these.
    golden = Golden(
        inputs=inputs,
        logits=logits_in_batches(network, normalise, inputs),
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
