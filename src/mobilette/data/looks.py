"""How images look before any network sees them: size, light, contrast and sharpness.

`look` measures one decoded image, `odd_looks` compares the images of a set. The kinds are those of
CleanVision (https://github.com/cleanlab/cleanvision); measures and limits are our own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageStat

from mobilette.data.duplicates import SIDE, thumbnail

# What `look` keeps of an image. Sharpness is the standard deviation of the Laplacian in levels,
# relative to that of the levels.
LOOK = np.dtype(
    [
        ("thumbnail", "u1", (SIDE, SIDE)),
        ("histogram", "<u4", (256,)),
        ("sharpness", "<f4"),
        ("width", "<i4"),
        ("height", "<i4"),
    ]
)
Looks = NDArray[np.void]
Odd = Literal["dark", "bright", "little information", "blurred", "odd shape", "odd size"]
_Rule = tuple[Odd, NDArray[Any], float, str]

# Sharpness is measured at most at this size, where focus shows and noise does not.
_LARGEST = 256
_LAPLACIAN = ImageFilter.Kernel((3, 3), (0, 1, 0, 1, -4, 1, 0, 1, 0), scale=4, offset=128)
_DARK, _BRIGHT = 80, 235  # levels: what is lighter than the first, or darker than the second
_FEW_BITS = 3.0  # of entropy of the levels
_BLURRED = 0.25  # of the set's median sharpness
_LONGEST = 3.0  # long to short side
_TIMES = 4.0  # larger or smaller than the set's median


@dataclass(frozen=True, kw_only=True)
class OddLook:
    """What is odd about one image.

    Attributes:
        index: which image.
        what: the kind, as `odd_looks` lists them.
        sure: 0 to 1; 0.5 at the limit.
        detail: the measured value, in words.
    """

    index: int
    what: Odd
    sure: float
    detail: str


def look(image: Image.Image) -> NDArray[np.void]:
    """Return what `odd_looks` and `near_duplicates` need of a decoded image, one `LOOK`."""
    found = np.zeros((), LOOK)
    found["width"], found["height"] = image.size
    found["thumbnail"] = thumbnail(image)
    factor = max(image.size) // _LARGEST
    small = image.reduce(factor) if factor > 1 else image
    grey = small if small.mode == "L" else small.convert("L")
    found["histogram"] = grey.histogram()
    spread = ImageStat.Stat(grey).stddev[0]
    # Pillow leaves the border as it is.
    inside = grey.filter(_LAPLACIAN).crop((1, 1, max(grey.width - 1, 2), max(grey.height - 1, 2)))
    edges = ImageStat.Stat(inside).stddev[0]
    found["sharpness"] = edges / max(spread, 1.0)
    return found


def odd_looks(looks: Looks) -> list[OddLook]:
    """Return what is odd about the images of a set, ``looks`` (N,) of `LOOK`.

    - dark: 99 of 100 pixels are darker than level 80; bright: 99 of 100 are lighter than 235;
    - little information: the levels have less than 3 bits of entropy;
    - blurred: a quarter of the set's median sharpness, or less;
    - odd shape: one side is three times the other, or longer;
    - odd size: a quarter, or four times, of the set's median side, or further from it.
    """
    if not len(looks):
        return []
    return list(_odd(looks))


def _odd(looks: Looks) -> Iterator[OddLook]:
    shares = looks["histogram"] / looks["histogram"].sum(axis=1, keepdims=True)
    below = np.cumsum(shares, axis=1)
    light = (below < 0.99).sum(axis=1)  # the level that 99 of 100 pixels do not exceed
    shade = (below < 0.01).sum(axis=1)
    bits = -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(axis=1)
    sides = np.sqrt(looks["width"].astype(np.float64) * looks["height"])
    shapes = np.maximum(looks["width"] / looks["height"], looks["height"] / looks["width"])
    sharp = looks["sharpness"] / max(float(np.median(looks["sharpness"])), 1e-6)
    times = sides / np.median(sides)
    least: tuple[_Rule, ...] = (
        ("dark", light, _DARK, "99% of it is darker than level {:.0f}"),
        ("little information", bits, _FEW_BITS, "{:.1f} bits in its levels"),
        ("blurred", sharp, _BLURRED, "{:.0%} of the usual sharpness"),
        ("odd size", times, 1 / _TIMES, "{:.2g} times the usual side"),
    )
    for what, value, limit, words in least:
        for index in np.flatnonzero(value < limit).tolist():
            sure = 1 - 0.5 * float(value[index]) / limit
            yield OddLook(index=index, what=what, sure=sure, detail=words.format(value[index]))
    most: tuple[_Rule, ...] = (
        ("bright", shade, _BRIGHT, "99% of it is lighter than level {:.0f}"),
        ("odd shape", shapes, _LONGEST, "one side is {:.1f} times the other"),
        ("odd size", times, _TIMES, "{:.2g} times the usual side"),
    )
    for what, value, limit, words in most:
        for index in np.flatnonzero(value > limit).tolist():
            sure = 1 - 0.5 * limit / float(value[index])
            yield OddLook(index=index, what=what, sure=sure, detail=words.format(value[index]))
