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
    from mobilette.formats.importing import import_weights

    if out is None:
        raise InputError("'weights import' needs --out: the run directory to write")
    read = import_weights(
        file,
        model=model,
        width_mult=width_mult,
        resolution=resolution,
        form=form.value if form else None,
        classes=classes,
        preprocess=preprocess,
        resize=resize.value if resize else None,
    )
    read.save(out, force=force)
    origin, arch = read.origin, read.arch
    for remark in origin.remarks:
        remarks().print(remark)
    if origin.unused:
        remarks().print(f"not needed: {', '.join(origin.unused)}")
    tensors = origin.tensors or 0
    answers = f"{arch.num_classes:,} classes" if read.has_classifier else "no classifier"
    remarks().print(
        f"{out}: {arch.name} at {arch.resolution}x{arch.resolution}, {answers}, "
        f"all {tensors - len(origin.unused)} tensors in place",
    )
    start = ["train", "DATA", "--from", str(out)]
    following = ["evaluate", str(out), "DATA"] if read.has_classifier else start
    remarks().print(f"next: {shlex.join(['mobilette', *following])}")
    if as_json:
        print_json(
            {
                "run": str(out),
                "tensors": origin.tensors,
                "unused": list(origin.unused),
                "missing": [],
            }
        )
