"""Draw docs/figures/shifts.png, each shift at each strength: ``python -m docs.make_shifts``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from docs.blocks.style import GREY, INK, write
from mobilette.data.shifts import SHIFTS, STRENGTHS, shifted

FIGURE = Path(__file__).parent / "figures" / "shifts.png"
WIDTH, HEIGHT = 240, 180
FINE = 4  # drawn this much larger, then reduced
Point = tuple[float, float]


def scene() -> Image.Image:
    """Return a picture of a house and a tree, drawn here, with the grain of a photograph."""
    image = Image.fromarray(_sky_and_meadow())
    draw = ImageDraw.Draw(image)
    ridge = [(0.0, 0.60), (0.18, 0.44), (0.34, 0.56), (0.55, 0.38), (0.8, 0.57), (1.0, 0.48)]
    _polygon(draw, [*ridge, (1, 0.64), (0, 0.64)], (96, 118, 140))
    _polygon(draw, [(0.12, 0.52), (0.45, 0.52), (0.45, 0.80), (0.12, 0.80)], (216, 196, 160))
    _polygon(draw, [(0.08, 0.53), (0.285, 0.32), (0.49, 0.53)], (150, 58, 44))
    for left in (0.17, 0.35):
        _polygon(draw, _box(left, 0.58, 0.06, 0.09), (52, 70, 92))
    _polygon(draw, _box(0.255, 0.62, 0.07, 0.18), (92, 58, 36))
    _polygon(draw, [(0.27, 0.80), (0.31, 0.80), (0.5, 1), (0.24, 1)], (188, 170, 138))
    _polygon(draw, _box(0.72, 0.55, 0.04, 0.28), (84, 60, 40))
    random = np.random.default_rng(3)
    for _ in range(160):
        angle, far = random.uniform(0, 2 * np.pi), np.sqrt(random.uniform())
        x, y = 0.74 + 0.14 * far * np.cos(angle), 0.40 + 0.2 * far * np.sin(angle)
        light = random.uniform(0.7, 1.25) - 0.5 * (y - 0.4)
        leaf = (int(58 * light), int(120 * light), int(50 * light))
        _circle(draw, (x, y), 0.025, leaf)
    image = image.filter(ImageFilter.GaussianBlur(1)).resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    grain = random.normal(0, 3, (HEIGHT, WIDTH, 1))
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))


def _sky_and_meadow() -> NDArray[np.uint8]:
    height, width = HEIGHT * FINE, WIDTH * FINE
    y = np.linspace(0, 1, height)[:, None, None]
    sky = (1 - y / 0.62) * np.array([92, 150, 214]) + y / 0.62 * np.array([214, 226, 236])
    meadow = np.array([128, 160, 84]) - (y - 0.62) * np.array([110, 90, 70])
    blades = np.random.default_rng(1).normal(0, 14, (height, width, 1))
    pixels = np.where(y < 0.62, np.broadcast_to(sky, (height, width, 3)), meadow + blades)
    return pixels.clip(0, 255).astype(np.uint8)


def _box(left: float, top: float, width: float, height: float) -> list[Point]:
    right, bottom = left + width, top + height
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _polygon(draw: ImageDraw.ImageDraw, points: list[Point], colour: tuple[int, int, int]) -> None:
    draw.polygon([(x * WIDTH * FINE, y * HEIGHT * FINE) for x, y in points], fill=colour)


def _circle(
    draw: ImageDraw.ImageDraw, middle: Point, radius: float, colour: tuple[int, int, int]
) -> None:
    x, y, far = middle[0] * WIDTH * FINE, middle[1] * HEIGHT * FINE, radius * WIDTH * FINE
    draw.ellipse((x - far, y - far, x + far, y + far), fill=colour)


def sheet(image: Image.Image) -> Figure:
    """Return the sheet of ``image``: two shifts a row, weakest to strongest."""
    figure = Figure(figsize=(4.8, 4.2))
    half, gap = len(SHIFTS) // 2, 0.06
    widths = [1.0] * len(STRENGTHS)
    grid = figure.subplots(half, 7, width_ratios=[*widths, gap, *widths])
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.97, wspace=0.04, hspace=0.2)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, (name, shift) in enumerate(SHIFTS.items()):
        row, first = grid[number % half], (len(STRENGTHS) + 1) * (number // half)
        row[first].set_title(name, loc="left", fontsize=5.6, fontweight="normal", color=INK, pad=2)
        for strength in STRENGTHS:
            axes = row[first + strength - 1]
            axes.imshow(shifted(image, name, strength, name="scene"))
            amount = f"{shift.amounts[strength - 1]:g}"
            axes.set_title(
                amount, loc="right", fontsize=5.4, fontweight="normal", color=GREY, pad=2
            )
    return figure


if __name__ == "__main__":
    write(partial(sheet, scene()), FIGURE)
