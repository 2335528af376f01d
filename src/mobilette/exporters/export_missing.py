"""`export_missing`: a run's artifacts for several targets, without those that are there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from mobilette.artifact.contract import Precision
from mobilette.artifact.directory import Artifact, is_artifact, open_artifact
from mobilette.errors import InputError, one_of
from mobilette.exporters.calibration import calibration_images
from mobilette.exporters.export import TARGETS, artifact_name, export_calibrated
from mobilette.files import read_bytes
from mobilette.model.directory import is_imported
from mobilette.progress import Reporter
from mobilette.run.directory import Run


@dataclass(frozen=True, kw_only=True)
class Refused:
    """An artifact that was not written, and the reason."""

    target: str
    precision: Precision
    reason: str


def export_missing(
    run: Run,
    to: str,
    precisions: str,
    *,
    data: str | Path | None,
    out: Path,
    force: bool,
    reporter: Reporter,
) -> Iterator[Artifact | Refused]:
    """Yield a run's artifacts in ``out``, each written unless it is there, or why it is not.

    ``to`` is targets with commas, or ``all``; of ``precisions`` each target gets those that it has.
    ``data`` calibrates int8 only if the run is imported. An artifact of other weights is replaced
    only with ``force``.
    """
    targets = list(TARGETS) if to == "all" else to.split(",")
    targets = [one_of(target, TARGETS, "target") for target in targets]
    asked = [one_of(each, get_args(Precision), "--precision") for each in precisions.split(",")]
    wanted = [
        (target, precision)
        for target in targets
        for precision in TARGETS[target].precisions
        if precision in asked
    ]
    if not wanted:
        raise InputError(f"--precision {precisions}: none of {', '.join(targets)} has it")
    calibration = None
    if "int8" in asked:
        given = data if is_imported(run.path) else None
        try:
            calibration = calibration_images(run, given, reporter=reporter)
        except InputError as error:
            reporter.remark(f"int8: {error}")
        else:
            count = len(calibration.pixels)
            reporter.remark(f"int8 is calibrated with {count} images of {calibration.source}")
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
            else:
                artifact = export_calibrated(
                    run,
                    to=target,
                    precision=precision,
                    calibration=calibration,
                    out=out,
                    force=force,
                )
            yield artifact
        except InputError as error:
            yield Refused(target=target, precision=precision, reason=str(error))
