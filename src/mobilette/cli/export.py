"""``mobilette export``: a run to an artifact."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mobilette.cli.options import Force, Json, Out


def export(
    run: Annotated[Path, typer.Argument(help="The run directory.")],
    to: Annotated[str, typer.Option("--to", help="Targets, separated by commas.")] = "onnx",
    out: Out = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write the artifacts of a run, one folder a target."""
    from mobilette.cli.output import human_bytes, print_json, remarks
    from mobilette.exporters.export import check_targets
    from mobilette.exporters.export import export as export_run
    from mobilette.run.directory import recorded_data

    artifacts = [
        export_run(run, to=target, out=out, force=force) for target in check_targets(to.split(","))
    ]
    rows = [
        {
            "path": str(artifact.path),
            "target": artifact.contract.target,
            "precision": artifact.contract.precision,
            "size_bytes": (artifact.path / artifact.contract.model).stat().st_size,
        }
        for artifact in artifacts
    ]
    if as_json:
        print_json({"artifacts": rows})
        return
    for artifact in artifacts:
        model = artifact.path / artifact.contract.model
        size = human_bytes(model.stat().st_size)
        remarks().print(f"{model}: {artifact.contract.precision}, {size}", markup=False)
        command = shlex.join(["mobilette", "verify", str(artifact.path), recorded_data(run)])
        remarks().print(f"next: {command}", markup=False)
