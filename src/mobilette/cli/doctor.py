"""``mobilette doctor``: examines this machine, or a model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mobilette.cli.options import Json
from mobilette.errors import InputError

HEADINGS = ("layer", "channels", "dead")
WHAT_TO_DO = (
    "dead: the same for every image, so they cost time and distinguish nothing",
    "'mobilette prune' cuts the channels that matter least; weight decay on depthwise kernels, "
    "which no recipe here has, makes more of them",
)


def doctor(
    model: Annotated[
        Path | None,
        typer.Argument(help="A run directory to search for dead channels.", metavar="[RUN]"),
    ] = None,
    clean: Annotated[
        bool, typer.Option("--clean", help="Remove the cache of decoded images.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what this machine has, or the dead channels of a run.

    Of a machine: versions, cores, memory, devices, targets and extras.
    """
    if model is not None and clean:
        raise InputError("--clean is for the cache, not for a run; give one of the two")
    if model is not None:
        _examine_model(model, as_json=as_json)
    elif clean:
        _clean(as_json=as_json)
    else:
        _examine_machine(as_json=as_json)


def _examine_model(path: Path, *, as_json: bool) -> None:
    from mobilette.cli.output import print_json, remarks, table
    from mobilette.compression.dead_channels import dead_depthwise
    from mobilette.model.model import Model

    found = dead_depthwise(Model.load(path))
    channels, dead = sum(x.channels for x in found), sum(len(x.dead) for x in found)
    if as_json:
        listed = [asdict(each) for each in found]
        print_json({"run": str(path), "channels": channels, "dead": dead, "layers": listed})
        return
    if not dead:
        print(f"{channels:,} depthwise channels, none of them dead")
        return
    rows = [(x.layer, f"{x.channels:,}", f"{len(x.dead):,}") for x in found if x.dead]
    print(table(HEADINGS, [*rows, ("all depthwise layers", f"{channels:,}", f"{dead:,}")]))
    for line in WHAT_TO_DO:
        remarks().print(line)


def _clean(*, as_json: bool) -> None:
    from mobilette.cli.output import console, print_json
    from mobilette.data.cache import clean_cache, images_cache

    folder = images_cache()
    if folder is None:
        raise InputError("no home directory, so there is no cache to remove")
    sets, removed = clean_cache(folder)
    if as_json:
        print_json({"folder": str(folder), "sets": sets, "bytes": removed})
    else:
        what = f"{sets} set{'s' if sets != 1 else ''} of decoded images"
        console().print(f"{folder}: {what} removed, {removed:,} bytes")


def _examine_machine(*, as_json: bool) -> None:
    from mobilette.cli.output import console, print_json
    from mobilette.engines.onnxruntime_web import describe_runtime
    from mobilette.exporters.export import target_packages
    from mobilette.training.environment import examine

    found = examine() | {"targets": target_packages(), "web": describe_runtime()}
    if as_json:
        print_json(found)
        return
    out = console()
    for key, value in found.items():
        text = "" if isinstance(value, dict) else "none" if value is None else value
        out.print(f"{key:<12} {text}")
        for name, detail in value.items() if isinstance(value, dict) else ():
            if isinstance(detail, dict):
                detail = ", ".join(f"{package} {version}" for package, version in detail.items())
            out.print(f"  {name:<16} {detail}")
