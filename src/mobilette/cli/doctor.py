"""``mobilette doctor``: what is there to work with, and what may be removed."""

from __future__ import annotations

from typing import Annotated

import typer

from mobilette.cli.options import Json
from mobilette.errors import InputError


def doctor(
    clean: Annotated[
        bool, typer.Option("--clean", help="Remove the decoded images kept for later runs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what there is to work with, and what may be removed.

    Versions, cores, memory, devices, targets, extras and the images that are kept.
    """
    from mobilette.cli.output import console, print_json

    out = console()
    if clean:
        from mobilette.data.cache import clean_cache, images_cache

        folder = images_cache()
        if folder is None:
            raise InputError("no home directory, so that nothing is kept that could be removed")
        sets, removed = clean_cache(folder)
        if as_json:
            print_json({"folder": str(folder), "sets": sets, "bytes": removed})
        else:
            what = f"{sets} set{'s' if sets != 1 else ''} of decoded images"
            line = f"{folder}: {what} removed, {removed:,} bytes"
            out.print(line)
        return
    from mobilette.engines.onnxruntime_web import describe_runtime
    from mobilette.exporters.export import target_packages
    from mobilette.training.environment import examine

    found = examine() | {"targets": target_packages(), "web": describe_runtime()}
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        text = "" if isinstance(value, dict) else "none" if value is None else value
        out.print(f"{key:<12} {text}")
        for name, detail in value.items() if isinstance(value, dict) else ():
            shown = _listed(detail) if isinstance(detail, dict) else detail
            out.print(f"  {name:<16} {shown}")


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
