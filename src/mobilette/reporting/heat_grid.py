"""Heat maps beside their images, on one page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mobilette.errors import one_of, visible
from mobilette.files import check_new_file, write_bytes
from mobilette.reporting.style import INK, PAPER, QUIET
from mobilette.verification.explain import Explanation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Explanations on one picture, and in a row.
MOST, COLUMNS = 60, 3
YES, NO = "#00805f", "#b84a00"
# Inches of an image and of the text under it.
_SIDE, _TEXT, _GAP, _EDGE = 1.75, 0.66, 0.22, 0.2
_LINE = 66  # characters of a verdict


def check_grid(out: Path, *, force: bool = False) -> None:
    """Raise `InputError` unless `write_grid` can write the file ``out``."""
    one_of(out.suffix, (".png",), f"{out}: the suffix")
    check_new_file(out, force=force)


def over(pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return an image in grey under its heat map, (H, W, 3) from 0 to 1.

    Cold places stay grey, so that what is under the warm ones is seen as well.
    """
    from matplotlib import colormaps

    grey = pixels.astype(np.float64).mean(axis=0)[..., None] / 255
    colours = np.asarray(colormaps["inferno"](0.15 + 0.8 * heat))[..., :3]
    strength = 0.75 * np.sqrt(np.clip(heat, 0, 1))[..., None]
    blended: NDArray[np.float64] = (1 - strength) * (0.25 + 0.75 * grey) + strength * colours
    return blended


def write_grid(explanations: Sequence[Explanation], path: Path) -> Path:
    """Write images, heat maps and verdicts as a PNG, at most `MOST` of them; return it.

    Raises:
        InputError: it cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    some = explanations[:MOST]
    columns = min(COLUMNS, max(len(some), 1))
    rows = -(-len(some) // columns)
    card_width, card_height = 2 * _SIDE + _GAP, _SIDE + _TEXT + _GAP
    width, height = columns * card_width + 2 * _EDGE - _GAP / 2, rows * card_height + 2 * _EDGE
    with rc_context({"font.family": "DejaVu Sans", "font.size": 8}):
        figure = Figure(figsize=(width, height), dpi=130, facecolor=PAPER)
        for number, each in enumerate(some):
            left = _EDGE + number % columns * card_width
            top = height - _EDGE - number // columns * card_height
            place = [left / width, (top - _SIDE) / height, _SIDE / width, _SIDE / height]
            first = figure.add_axes((place[0], place[1], place[2], place[3]))
            second = figure.add_axes(((left + _SIDE + 0.04) / width, place[1], place[2], place[3]))
            _draw(first, second, each)
        content = io.BytesIO()
        figure.savefig(content, format="png")
    write_bytes(path, content.getvalue())
    return path


def _draw(first: Axes, second: Axes, each: Explanation) -> None:
    image = each.pixels.transpose(1, 2, 0)
    grey = image.shape[2] == 1
    first.imshow(image[..., 0] if grey else image, cmap="gray" if grey else None, vmin=0, vmax=255)
    second.imshow(over(each.pixels, each.heat))
    for axes in (first, second):
        axes.set_axis_off()
        axes.set_anchor("N")
    colour = YES if each.check.believed else NO
    name = visible(Path(each.path).name)
    below = first.transAxes
    bottom = _shown_bottom(each)
    first.text(
        0,
        bottom - 0.06,
        f"{_short(visible(each.label), 30)} {each.probability:.1%}",
        transform=below,
        va="top",
        weight="bold",
        color=INK,
        fontsize=9,
        parse_math=False,
    )
    second.text(
        1,
        bottom - 0.06,
        _short(name, 24),
        transform=second.transAxes,
        va="top",
        ha="right",
        color=QUIET,
        fontsize=7,
        parse_math=False,
    )
    lines = wrap(each.check.verdict, _LINE)[:3]
    first.text(
        0,
        bottom - 0.17,
        "\n".join(lines),
        transform=below,
        va="top",
        color=colour,
        fontsize=7.2,
        linespacing=1.25,
        parse_math=False,
    )


def _shown_bottom(each: Explanation) -> float:
    """Return where an image ends in its square axes, 0 to 1: oblong ones leave room below."""
    height, width = each.heat.shape
    return float(max(1 - height / width, 0))


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
