"""`export`: a run to the artifact of a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from mobilette.artifact.directory import CONTRACT, Artifact, open_artifact
from mobilette.errors import one_of
from mobilette.exporters.onnx import write_onnx
from mobilette.files import new_directory
from mobilette.run.directory import Run, open_run

TARGETS: Mapping[str, Callable[..., None]] = MappingProxyType({"onnx": write_onnx})


def export(
    run: str | Path | Run, *, to: str = "onnx", out: str | Path | None = None, force: bool = False
) -> Artifact:
    """Write the artifact of a run and return it.

    Args:
        run: a run or its directory.
        to: the target.
        out: the artifact is written to ``out/to``; by default ``exports/<name of the run>/to``.
        force: replace an artifact that is there already.

    Raises:
        InputError: no such target, no trained weights, or the artifact cannot be written; nothing
            is left behind then.
    """
    one_of(to, TARGETS, "target")
    run = run if isinstance(run, Run) else open_run(run)
    base = Path(out) if out is not None else Path("exports") / run.path.resolve().name
    with new_directory(base / to, holds=CONTRACT, force=force) as folder:
        TARGETS[to](run, folder, base / to)
    return open_artifact(base / to)
