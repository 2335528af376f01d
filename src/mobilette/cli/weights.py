"""``mobilette weights``: published weights."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from mobilette.cli.examples import ExampleCommand
from mobilette.cli.options import Force, FormOption, Json, Resize, ResolutionOption, ranged
from mobilette.errors import InputError, nearest, shown
from mobilette.limits import WIDTH_MULT

if TYPE_CHECKING:
    from mobilette.formats.published import PublishedWeights

app = typer.Typer(rich_markup_mode=None)

NOTES = (
    "width: multiplier; top-1: as claimed, on ImageNet at that many pixels; size: approximate",
    "sha-256: digits known beforehand, of 64; none: what the server states, if it does, is checked",
    "licence: as the publisher states it; * of the code, none is stated for the weights",
)


@app.callback()
def weights() -> None:
    """Weights that others have published."""


@app.command("list", cls=ExampleCommand)
def list_weights(
    pattern: Annotated[
        str, typer.Argument(help="Part of a name or of a network's, or a pattern with *.")
    ] = "*",
    as_json: Json = False,
) -> None:
    """List the weights that can be downloaded.

    The best of each network are the first.
    """
    from mobilette.formats.published import list_published

    found = [w for w in list_published() if _matches(w.name, pattern) or _matches(w.model, pattern)]
    if not found:
        names = {name for w in list_published() for name in (w.name, w.model)}
        raise InputError(
            f"no published weights match {shown(pattern)}{nearest(pattern, sorted(names))}"
        )
    if not as_json:
        _print_table(found)
        return
    from mobilette.cli.output import print_json

    rows = []
    for entry in found:
        path = _place(entry)
        cached = path is not None and path.is_file()
        rows.append(asdict(entry) | {"path": str(path) if path else None, "cached": cached})
    print_json(rows)


def _place(weights: PublishedWeights) -> Path | None:
    """Return where the file of ``weights`` is cached; ``None`` without a home directory."""
    from mobilette.formats.download import cached_path

    try:
        return cached_path(weights)
    except InputError:
        return None


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) if any(c in pattern for c in "*?[") else pattern in name


def _print_table(found: list[PublishedWeights]) -> None:
    from mobilette.cli.output import human_bytes, say, table

    rows = []
    for entry in found:
        licence, remark, _ = entry.licence.partition(" (")
        rows.append(
            (
                entry.name,
                entry.model,
                f"{entry.width_mult:g}",
                str(entry.resolution),
                "-" if entry.top1 is None else f"{100 * entry.top1:.1f} %",
                human_bytes(entry.size_bytes),
                str(len(entry.sha256) or "none"),
                urlsplit(entry.url).hostname,
                licence + "*" * bool(remark),
                "yes" if (place := _place(entry)) is not None and place.is_file() else "-",
            )
        )
    headings = ("name", "network", "width", "pixels", "top-1", "size", "sha-256", "from")
    print(table((*headings, "licence", "cached"), rows, left=(0, 1, 7, 8, 9), gap=2))
    place = _place(found[0])
    where = f"in {place.parent}" if place else "nowhere: there is no home directory"
    for note in (*NOTES, f"cached: {where}"):
        say(note)


@app.command("import", cls=ExampleCommand)
def import_weights(
    file: Annotated[
        Path,
        typer.Argument(
            help="A .pth, .safetensors, .keras, .h5, .tflite, .onnx, .caffemodel or model.json."
        ),
    ],
    model: Annotated[str, typer.Option("--as", help="Name of the network in the file.")],
    width_mult: Annotated[float, ranged("--width-mult", WIDTH_MULT, "Width multiplier.")] = 1.0,
    resolution: ResolutionOption = None,
    form: FormOption = None,
    classes: Annotated[
        Path | None, typer.Option("--classes", help="File with the class names [numbers].")
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option("--preprocess", help="Preset: torch, tf, caffe, unit, raw [the file's]."),
    ] = None,
    resize: Annotated[
        Resize | None,
        typer.Option("--resize", help="How images are fitted to the input [the file's, or crop]."),
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
        form=form,
        classes=classes,
        preprocess=preprocess,
        resize=resize,
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
        f"{out}: {arch.name} at {'x'.join(map(str, arch.size))}, {answers}, "
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
