"""From a paper's table to a concrete network: the width multiplier and the small form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from mobilette.errors import InputError, one_of, shown
from mobilette.limits import CLASSES, IN_CHANNELS, RESOLUTION, WIDTH_MULT
from mobilette.records import check_ranges

Form = Literal["small", "full"]
LARGEST_SMALL_RESOLUTION = 64

Resolution = int | tuple[int, int]
"""The input's size in pixels: the side of a square, or (height, width)."""


def size_of(resolution: Resolution) -> tuple[int, int]:
    """Return (height, width)."""
    return resolution if isinstance(resolution, tuple) else (resolution, resolution)


def as_resolution(resolution: Resolution) -> Resolution:
    """Return ``resolution`` in its only notation: one number for a square.

    Raises:
        InputError: it is not one or two whole numbers, or a side is out of range.
    """
    sides = resolution if isinstance(resolution, tuple | list) else (resolution, resolution)
    if len(sides) != 2:
        raise InputError(
            f"resolution {shown(resolution)} is neither a side, such as 224, nor a height and a "
            "width, such as (160, 224)"
        )
    for side in sides:
        RESOLUTION.check("resolution", side)
    height, width = map(int, sides)
    return height if height == width else (height, width)


def resolution_text(resolution: Resolution) -> str:
    """Return ``224`` for a square, else ``160x224``: height x width."""
    height, width = size_of(resolution)
    return str(height) if height == width else f"{height}x{width}"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of a network.

    ``form="small"`` changes the first two strides of 2 to 1, for images of about 32x32; by default
    it is used up to a shorter side of 64 pixels.
    """

    width_mult: Annotated[float, WIDTH_MULT] = 1.0
    resolution: Annotated[Resolution, RESOLUTION] = 224
    num_classes: Annotated[int, CLASSES] = 1000
    in_channels: Annotated[int, IN_CHANNELS] = 3
    form: Form | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "resolution", as_resolution(self.resolution))
        check_ranges(self)
        if self.form is not None:
            one_of(self.form, ("small", "full"), "form")

    @property
    def is_full(self) -> bool:
        """Whether the form is ``full``."""
        if self.form is None:
            return min(size_of(self.resolution)) > LARGEST_SMALL_RESOLUTION
        return self.form == "full"

    def stem_kernel(self, published: int) -> int:
        """Return the side of a stem's kernel: at most 3 in the small form."""
        return published if self.is_full else min(published, 3)

    def strides(self, published: Sequence[int]) -> list[int]:
        """Return the strides of the chosen form for a network's ``published`` ones, in order."""
        to_drop = 0 if self.is_full else 2
        strides = []
        for stride in published:
            drop = stride > 1 and to_drop > 0
            to_drop -= drop
            strides.append(1 if drop else stride)
        return strides


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Round ``channels`` to a multiple of ``divisor``, never more than 10% below.

    The rule of the MobileNet V2 reference code (tensorflow/models, slim/nets/mobilenet).
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def scale_truncated(channels: int, width_mult: float) -> int:
    """Scale like MobileNet V1's reference code: truncate to an integer, at least 8."""
    return max(8, int(channels * width_mult))
