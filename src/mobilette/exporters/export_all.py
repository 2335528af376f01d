"""`export_all`: one run to several targets and precisions, whatever some of them refuse."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mobilette.artifact.contract import Precision
from mobilette.artifact.directory import Artifact, is_artifact, open_artifact
from mobilette.errors import InputError
from mobilette.exporters.export import TARGETS, artifact_name, export
from mobilette.exporters.target import Calibration
from mobilette.files import read_bytes
from mobilette.run.directory import Run


@dataclass(frozen=True, kw_only=True)
class Refused:
    """An artifact that was not written, and why."""

    target: str
    precision: Precision
    reason: str


def chosen(targets: Iterable[str], precisions: Iterable[str]) -> list[tuple[str, Precision]]:
    """Return each of ``targets`` with those of ``precisions`` that it has, in their order."""
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
    """Write artifacts one after the other; yield each, or why there is none.

    One that lies there already, and was made from the same weights, is kept unless ``force``.

    Args:
        run: the run.
        wanted: (target, precision), as `chosen` returns them.
        calibration: as for `export`; without it int8 is refused.
        out: as for `export`.
        force: as for `export`.
    """
    weights = hashlib.sha256(read_bytes(run.weights_path)).hexdigest()
    for target, precision in wanted:
        folder = out / artifact_name(TARGETS[target], precision)
        try:
            if is_artifact(folder) and not force:
                artifact = open_artifact(folder)
                if artifact.contract.source.weights_sha256 != weights:
                    raise InputError(f"{folder}: of another run; give another --out, or --force")
                yield artifact
                continue
            if precision == "int8" and calibration is None:
                raise InputError("no images to calibrate int8 with")
            yield export(
                run, to=target, precision=precision, calibration=calibration, out=out, force=force
            )
        except InputError as error:
            yield Refused(target=target, precision=precision, reason=str(error))
