"""`export`: a run to the artifact of a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from mobilette.artifact.contract import Measured, Precision
from mobilette.artifact.directory import CONTRACT, Artifact, open_artifact, write_artifact
from mobilette.errors import InputError, one_of
from mobilette.exporters.onnx import ONNX
from mobilette.exporters.prepare import make_contract, prepare
from mobilette.exporters.readme import readme
from mobilette.exporters.target import Calibration, Target
from mobilette.files import new_directory
from mobilette.run.directory import Run, open_run

TARGETS: Mapping[str, Target] = MappingProxyType({target.name: target for target in (ONNX,)})


def export(
    run: str | Path | Run,
    *,
    to: str = "onnx",
    precision: Precision | None = None,
    calibration: Calibration | None = None,
    out: str | Path | None = None,
    force: bool = False,
) -> Artifact:
    """Write the artifact of a run and return it.

    Args:
        run: a run or its directory.
        to: the target.
        precision: of the target's; ``None`` means its usual one.
        calibration: what `calibration_pictures` returned; needed for int8.
        out: the artifact is written to ``out/to``, with ``-int8`` or another precision but fp32
            behind it; by default ``out`` is ``exports/<name of the run>``.
        force: replace an artifact that is there already.

    Raises:
        InputError: no such target or precision, a package that the target needs is missing, no
            trained weights, or the artifact cannot be written; nothing is left behind then.
    """
    target = TARGETS[one_of(to, TARGETS, "target")]
    precision = precision or target.precisions[0]
    one_of(precision, target.precisions, f"precision of {to}")
    if precision != "int8":
        calibration = None
    elif calibration is None:
        raise InputError("int8 needs calibration pictures (calibration_pictures gives them)")
    run = run if isinstance(run, Run) else open_run(run)
    base = Path(out) if out is not None else Path("exports") / run.path.resolve().name
    final = base / artifact_name(target, precision)
    with new_directory(final, holds=CONTRACT, force=force) as folder:
        prepared, best = prepare(run), run.best()
        contract = make_contract(
            run, target, precision=precision, calibration=calibration, final=final
        )
        written = target.writer(prepared, contract, calibration)
        write_artifact(
            folder,
            contract=contract,
            files=written.files,
            golden=replace(prepared.golden, exact=written.exact),
            readme=readme(contract, target),
            measured=Measured(
                size_bytes=sum(
                    len(written.files[name]) for name in (contract.model, *contract.parts)
                ),
                top1=best["top1"] if best is not None else None,
                arena_bytes=written.arena_bytes,
                operators=written.operators,
            ),
        )
    return open_artifact(final)


def artifact_name(target: Target, precision: Precision) -> str:
    """Return the name of an artifact's directory, such as ``onnx`` or ``onnx-int8``."""
    return target.name if precision == "fp32" else f"{target.name}-{precision}"
