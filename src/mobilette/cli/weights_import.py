"""``mobilette weights import``: a published file to a run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mobilette.cli.options import Force, FormOption, Json, ResizeChoice, Resolution, ranged
from mobilette.errors import InputError
from mobilette.limits import WIDTH_MULT


def import_weights(
    file: Annotated[
        Path, typer.Argument(help="A .pth, .safetensors, .keras, .h5, .tflite, model.json.")
    ],
    model: Annotated[str, typer.Option("--as", help="Name of the network in it.")],
    width_mult: Annotated[float, ranged("--width-mult", WIDTH_MULT, "Width multiplier.")] = 1.0,
    resolution: Resolution = None,
    form: FormOption = None,
    classes: Annotated[
        Path | None, typer.Option("--classes", help="File of the classes [numbers].")
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option("--preprocess", help="Preset: torch, tf, caffe, unit, raw [the file's]."),
    ] = None,
    resize: Annotated[
        ResizeChoice | None,
        typer.Option("--resize", help="How an image becomes square [what the file says, or crop]."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run directory.")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Read published weights and write them as a run."""
    from mobilette.cli.output import print_json, remarks
    from mobilette.formats.import_run import import_run

    if out is None:
        raise InputError("'weights import' needs --out: the run directory to write")
    done = import_run(
        file,
        model=model,
        out=out,
        width_mult=width_mult,
        resolution=resolution,
        form=form.value if form else None,
        classes=classes,
        preprocess=preprocess,
        resize=resize.value if resize else None,
        force=force,
    )
    imported, arch = done.imported, done.run.arch
    for remark in imported.remarks:
        remarks().print(remark)
    if imported.unused:
        remarks().print(f"not needed: {', '.join(imported.unused)}")
    answers = f"{arch.num_classes:,} classes" if imported.has_classifier else "no classifier"
    remarks().print(
        f"{out}: {arch.name} at {arch.resolution}x{arch.resolution}, {answers}, "
        f"all {imported.tensors - len(imported.unused)} tensors in place",
    )
    start = ["train", "DATA", "--from", str(out)]
    following = ["evaluate", str(out), "DATA"] if imported.has_classifier else start
    remarks().print(f"next: {shlex.join(['mobilette', *following])}")
    if as_json:
        print_json(
            {
                "run": str(out),
                "tensors": imported.tensors,
                "unused": list(imported.unused),
                "missing": [],
            }
        )
