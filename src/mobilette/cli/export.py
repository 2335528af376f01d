"""``mobilette export``: a run to an artifact, or to a state dict for other libraries."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mobilette.cli.options import Force, Json, Out
from mobilette.errors import one_of


def export(
    run: Annotated[Path, typer.Argument(help="The run directory.")],
    to: Annotated[
        str, typer.Option("--to", help="Targets, separated by commas: onnx, state_dict.")
    ] = "onnx",
    names: Annotated[
        str,
        typer.Option("--names", help="Names in a state_dict: torchvision, timm or mobilette."),
    ] = "torchvision",
    out: Out = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write the artifacts of a run, one folder a target."""
    from mobilette.cli.output import human_bytes, print_json, remarks
    from mobilette.exporters.export import TARGETS
    from mobilette.exporters.export import export as export_run
    from mobilette.exporters.state_dict import NAMES, STATE_DICT, export_state_dict
    from mobilette.run.directory import is_imported, recorded_data

    targets = [one_of(name, (*TARGETS, STATE_DICT), "target") for name in to.split(",")]
    one_of(names, NAMES, "--names")
    rows = []
    for target in dict.fromkeys(targets):
        if target == STATE_DICT:
            model = export_state_dict(run, names=names, out=out, force=force)
            precision = "fp32"
        else:
            artifact = export_run(run, to=target, out=out, force=force)
            model, precision = artifact.path / artifact.contract.model, artifact.contract.precision
        size = model.stat().st_size
        row = {"path": str(model.parent), "target": target, "precision": precision}
        rows.append(row | {"size_bytes": size})
        if as_json:
            continue
        remarks().print(f"{model}: {precision}, {human_bytes(size)}", markup=False)
        if target == STATE_DICT:
            remarks().print(f"next: see {model.parent / 'README.md'}", markup=False)
        else:
            data = "DATA" if is_imported(run) else recorded_data(run)
            command = shlex.join(["mobilette", "verify", str(model.parent), data])
            remarks().print(f"next: {command}", markup=False)
    if as_json:
        print_json({"artifacts": rows})
