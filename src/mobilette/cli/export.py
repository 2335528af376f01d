"""``mobilette export``: a run to artifacts, or to a state dict for other libraries."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mobilette.cli.options import Force, Json, MaxUnusable, Out, Workers
from mobilette.errors import InputError, one_of, shown
from mobilette.progress import Reporter


def export(
    run: Annotated[Path, typer.Argument(help="The run directory.")],
    to: Annotated[
        str,
        typer.Option(
            "--to", help="Targets, with commas: onnx, openvino and others, or state_dict."
        ),
    ] = "onnx",
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            help="Precisions: fp32, fp16, bf16, int8, or several [what is usual for a target].",
        ),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="The same as --precision int8: calibrated, not trained.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Images to calibrate int8 with [the run's own]."),
    ] = None,
    names: Annotated[
        str,
        typer.Option("--names", help="Names in a state_dict: torchvision, timm or mobilette."),
    ] = "torchvision",
    out: Out = None,
    workers: Workers = None,
    max_unusable: MaxUnusable = 0.1,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write the artifacts of a run, a folder for each target.

    There is one a precision, too.
    """
    from mobilette.artifact.directory import CONTRACT
    from mobilette.cli.output import human_bytes, print_json, progress_bar, reading_bar, remarks
    from mobilette.data.reading import Reading
    from mobilette.exporters.calibration import calibration_images
    from mobilette.exporters.export import TARGETS, artifact_folder, check_precision
    from mobilette.exporters.export import export as export_run
    from mobilette.exporters.state_dict import NAMES, STATE_DICT, export_state_dict
    from mobilette.exporters.target import package_versions
    from mobilette.folders import check_new
    from mobilette.model.directory import is_imported
    from mobilette.run.directory import open_run, recorded_data

    if int8 and precision is not None:
        raise InputError("--int8 and --precision: give one of them")
    known = (*TARGETS, STATE_DICT)
    targets = [one_of(each.strip(), known, f"--to {shown(to)}: target") for each in to.split(",")]
    targets = list(dict.fromkeys(targets))
    asked = ("int8" if int8 else precision or "").split(",") if int8 or precision else [None]
    wanted = [
        (target, check_precision(target, each))
        for target in targets
        if target != STATE_DICT
        for each in dict.fromkeys(asked)
    ]
    one_of(names, NAMES, "--names")
    opened = open_run(run)
    for target, kind in wanted:  # before images are decoded and others are written
        check_new(artifact_folder(opened, target, kind, out), holds=CONTRACT, force=force)
        package_versions(TARGETS[target])
    calibration = None
    if any(each == "int8" for _, each in wanted):
        with reading_bar() as report:
            calibration = calibration_images(
                opened,
                data,
                reading=Reading(workers=workers, max_unusable=max_unusable),
                reporter=Reporter(reading=report),
            )
        remarks().print(
            f"int8 is calibrated with {len(calibration.pixels)} images of {calibration.source}",
        )
    elif data is not None:
        raise InputError("--data names images to calibrate int8 with; nothing here is int8")
    rows = []

    def written(model: Path, target: str, kind: str, size: int, hint: str) -> None:
        row = {"path": str(model.parent), "target": target, "precision": kind}
        rows.append(row | {"size_bytes": size})
        if not as_json:
            remarks().print(f"{model}: {kind}, {human_bytes(size)}")
            remarks().print(f"next: {hint}")

    for target, kind in wanted:
        with progress_bar(f"exporting to {target}, {kind}") as progress:
            artifact = export_run(
                opened,
                to=target,
                precision=kind,
                calibration=calibration,
                out=out,
                force=force,
                progress=progress,
            )
        contract = artifact.contract
        images = "DATA" if is_imported(run) else recorded_data(run)
        hint = shlex.join(["mobilette", "verify", str(artifact.path), images])
        if not contract.verifiable:
            hint = f"see {artifact.path / 'README.md'}; nothing here can execute it"
        size = contract.measured.size_bytes if contract.measured else 0
        written(artifact.path / contract.model, target, kind, size, hint)
    if STATE_DICT in targets:
        model = export_state_dict(run, names=names, out=out, force=force)
        size = model.stat().st_size
        written(model, STATE_DICT, "fp32", size, f"see {model.parent / 'README.md'}")
    if as_json:
        print_json({"artifacts": rows})
