"""The pixel scaling that a file applies itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mobilette.data.preprocess import Colour, Preprocess
from mobilette.errors import InputError

Numbers = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """A tensor of (pixel - mean) / std per channel, for pixels of 0 to 255.

    ``told``: whether the file states the scaling; an unscaled float input can be anything.
    """

    mean: Numbers
    std: Numbers
    told: bool

    def preprocess(self) -> Preprocess | None:
        """Return the scaling as a `Preprocess` with default geometry, if the file states it."""
        if not self.told:
            return None
        colour: Colour = "grey" if len(self.mean) == 1 else "rgb"
        return Preprocess(mean=self.mean, std=self.std, colour=colour)

    def scaled(self, name: str, numbers: Numbers) -> Pixels:
        """Return the result of the operator ``name`` (ADD, SUB, MUL or DIV) with a constant."""
        channels = len(self.mean)
        if len(numbers) not in (1, channels):
            raise InputError(f"a constant of {len(numbers)} numbers for {channels} channels")
        numbers = numbers * (channels // len(numbers))
        if name in ("MUL", "DIV") and min(numbers) <= 0:
            raise InputError("a factor that is not above 0")
        mean, std = self.mean, self.std
        if name == "ADD":
            mean = tuple(m - n * s for m, n, s in zip(mean, numbers, std, strict=True))
        elif name == "SUB":
            mean = tuple(m + n * s for m, n, s in zip(mean, numbers, std, strict=True))
        elif name == "MUL":
            std = tuple(s / n for s, n in zip(std, numbers, strict=True))
        else:
            std = tuple(s * n for s, n in zip(std, numbers, strict=True))
        if not all(map(math.isfinite, mean + std)):
            raise InputError("the scaling of the input is not finite")
        return replace(self, mean=mean, std=std, told=True)
