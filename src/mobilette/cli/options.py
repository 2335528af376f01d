"""Options shared by verbs, with the range of every number."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mobilette import limits
from mobilette.arch.scale import Form, Resolution, as_resolution, size_of
from mobilette.errors import InputError, shown

# Step between the papers' resolutions.
RESOLUTION_STEP = 32


Resize = Literal["crop", "squash", "pad"]


def parse_resolution(text: str) -> Resolution:
    """Return the resolution in ``224`` or, height first, ``160x224``.

    Raises:
        InputError: it is neither, or a side is out of range.
    """
    match = re.fullmatch(r"([0-9]{1,9})(?:x([0-9]{1,9}))?", text.strip())
    if match is None:
        raise InputError(
            f"--resolution {shown(text)} is neither a side, such as 224, nor HEIGHTxWIDTH, such as "
            f"160x224, {limits.RESOLUTION.bounds}"
        )
    try:
        return as_resolution((int(match[1]), int(match[2] or match[1])))
    except InputError as error:
        raise InputError(f"--resolution {match[0]}: {error}") from None


def parse_resolutions(text: str) -> list[Resolution]:
    """Return the resolutions in ``96..224``, ``96..224:8``, ``160``, ``96x160`` or ``96,192..224``.

    The number after the colon is the step, by default 32.

    Raises:
        InputError: a part is none of these, or a resolution is out of range.
    """
    resolutions: set[Resolution] = set()
    for part in map(str.strip, text.split(",")):
        if "x" in part:
            resolutions.add(parse_resolution(part))
            continue
        match = re.fullmatch(r"([0-9]{1,9})(?:\.\.([0-9]{1,9})(?::([0-9]{1,9}))?)?", part)
        if match is None:
            raise InputError(
                f"--resolution {shown(part)} is neither a resolution nor a range; "
                "write 160, 96x160, 96..224 or 96..224:8"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        step = int(match[3] or RESOLUTION_STEP)
        for resolution in (first, last):
            limits.RESOLUTION.check("resolution", resolution)
        if last < first:
            raise InputError(f"--resolution {shown(part)} is reversed; write {last}..{first}")
        if step == 0:
            raise InputError(f"--resolution {shown(part)} has a step of 0; 1 is the smallest")
        resolutions.update(range(first, last + 1, step))
    return sorted(resolutions, key=size_of)


def ranged(name: str, within: limits.Range, help: str, *, panel: str | None = None) -> Any:
    """Return an option for a number that must be ``within`` a range."""

    def check(value: float | None) -> float | None:
        if value is not None:
            within.check(name, value)
        return value

    return typer.Option(name, callback=check, help=help, rich_help_panel=panel)


ResolutionOption = Annotated[
    Any,  # a Resolution, or None
    typer.Option(
        "--resolution",
        parser=str,
        callback=lambda text: None if text is None else parse_resolution(text),
        metavar="SIDE|HEIGHTxWIDTH",
        help="Size of the input in pixels, such as 224 or 160x224.",
    ),
]
FormOption = Annotated[
    Form | None,
    typer.Option(
        "--form", help="Strides: small for inputs up to 64 pixels, or full [by the input]."
    ),
]
Epochs = Annotated[int | None, ranged("--epochs", limits.EPOCHS, "Passes over the images.")]
BatchSize = Annotated[int | None, ranged("--batch-size", limits.BATCH_SIZE, "Images per step.")]
LearningRate = Annotated[float | None, ranged("--lr", limits.LEARNING_RATE, "Peak learning rate.")]
Seed = Annotated[int | None, ranged("--seed", limits.SEED, "Random seed.")]
Time = Annotated[
    str | None,
    typer.Option("--time", help="Time to fit the training into, such as 90s, 10m or 2h."),
]
MaxDrop = Annotated[
    float, ranged("--max-drop", limits.DROP, "Percentage points of accuracy that int8 may lose.")
]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON value to stdout.")]
Force = Annotated[bool, typer.Option("--force", help="Replace existing files.")]
Out = Annotated[Path | None, typer.Option("--out", help="Where to write the result.")]
Device = Annotated[str, typer.Option("--device", help="Device: auto, cpu, cuda, cuda:N or mps.")]
Threads = Annotated[int | None, ranged("--threads", limits.THREADS, "Threads per operation.")]
Workers = Annotated[
    int | None, ranged("--workers", limits.WORKERS, "Processes that decode images [one per core].")
]
SplitOption = Annotated[
    str | None,
    typer.Option("--split", help="Images to use: train, val or test [val if there is one]."),
]
IncludeTrained = Annotated[
    bool, typer.Option("--include-trained", help="Also use images that the model was trained on.")
]
MaxUnusable = Annotated[
    float, ranged("--max-unusable", limits.FRACTION, "Fraction of the images that may be unusable.")
]
Promise = Annotated[
    str | None,
    typer.Option(
        "--promise", help="Promise to keep by answering less: 'error<=1%', 'known>=95%' or both."
    ),
]
