"""Options that mean the same for every verb."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mobilette.arch.arch import check_resolution
from mobilette.errors import InputError

# The step of the papers' resolutions.
RESOLUTION_STEP = 32


class FormChoice(StrEnum):
    """Which strides a network has."""

    small = "small"
    full = "full"


class PrecisionChoice(StrEnum):
    """How numbers are stored."""

    fp32 = "fp32"
    int8 = "int8"


class ResizeChoice(StrEnum):
    """How a picture becomes square."""

    crop = "crop"
    squash = "squash"
    pad = "pad"


def parse_duration(text: str) -> float:
    """Return the seconds in ``90s``, ``10m``, ``1.5h`` or plain ``90``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0
    if seconds <= 0:
        raise InputError(f"--time {text!r} is no duration; write 90s, 10m or 2h")
    return seconds


def parse_resolutions(text: str) -> list[int]:
    """Return the resolutions in ``96..224``, ``96..224:8``, ``160`` or ``96,128,192..224``.

    The number after the colon is the step, 32 if there is none.

    Raises:
        InputError: a part is none of these, or a resolution is one that no network can have.
    """
    resolutions: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:\.\.([0-9]{1,9})(?::([0-9]{1,9}))?)?", part.strip())
        if match is None:
            raise InputError(
                f"--resolution {part.strip()!r} is no resolution and no range; "
                "write 160, 96..224 or 96..224:8"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        step = int(match[3] or RESOLUTION_STEP)
        check_resolution(first)
        check_resolution(last)
        if last < first:
            raise InputError(f"--resolution {part.strip()!r} is reversed; write {last}..{first}")
        if step == 0:
            raise InputError(f"--resolution {part.strip()!r} has a step of 0; 1 is the smallest")
        resolutions.update(range(first, last + 1, step))
    return sorted(resolutions)


WidthMult = Annotated[float, typer.Option("--width-mult", help="Width multiplier, above 0.")]
Resolution = Annotated[
    int | None, typer.Option("--resolution", help="Side of the square input, in pixels.")
]
FormOption = Annotated[
    FormChoice | None,
    typer.Option("--form", help="Strides for small pictures or full ones [up to 64: small]."),
]
NumClasses = Annotated[int, typer.Option("--num-classes", help="Number of classes.")]
InChannels = Annotated[int, typer.Option("--in-channels", help="Channels of the input: 3, or 1.")]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON value to stdout.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there already.")]
Out = Annotated[Path | None, typer.Option("--out", help="Where the result is written.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Threads of one operation.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=0, help="Processes that decode pictures.")
]
SplitOption = Annotated[
    str | None, typer.Option("--split", help="Pictures to use [val where there is one, else all].")
]
MaxUnusable = Annotated[
    float, typer.Option("--max-unusable", help="Part of the pictures that may be unusable.")
]
