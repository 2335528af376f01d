"""Everyday shifts: what light, lens, hand, weather and storage do to a picture.

Each takes an RGB image and returns one of the same size. Lengths and areas are parts of the
picture's size, so that a shift looks the same at any resolution. The same name always gives the
same pixels.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy.ndimage import affine_transform

from mobilette.data.formats import UnusableImage
from mobilette.errors import one_of
from mobilette.limits import Range

Floats = NDArray[np.float64]
Apply = Callable[[Image.Image, float, np.random.Generator], Image.Image]

STRENGTHS = (1, 2, 3)
STRENGTH = Range(1, 3)
# Pictures with a shorter side of twice as many pixels or more are reduced before they are shifted.
DETAIL = 256
_VEIL = (222, 225, 230)
_LONGEST_JPEG = 65_500  # of libjpeg


@dataclass(frozen=True, kw_only=True)
class Shift:
    """One kind of shift.

    Attributes:
        apply: a function of an image, an amount and a random generator.
        amounts: its amounts at strengths 1, 2 and 3.
        unit: what the amounts are.
    """

    apply: Apply
    amounts: tuple[float, float, float]
    unit: str


def shifted(image: Image.Image, shift: str, strength: int, *, name: str) -> Image.Image:
    """Return ``image``, RGB, under a shift.

    Args:
        image: of mode ``"RGB"``.
        shift: one of `SHIFTS`.
        strength: 1, 2 or 3.
        name: chooses what is random, such as a direction; the same at every strength.

    Raises:
        InputError: no such shift or strength.
        UnusableImage: it is longer than a JPEG can be.
    """
    chosen = SHIFTS[one_of(shift, SHIFTS, "shift")]
    STRENGTH.check("strength", strength)
    seed = hashlib.sha256(f"{shift} {name}".encode(errors="surrogateescape")).digest()[:8]
    random = np.random.default_rng(int.from_bytes(seed, "big"))
    return chosen.apply(image, chosen.amounts[strength - 1], random)


def reduced_to_detail(image: Image.Image, *, most: float = math.inf) -> Image.Image:
    """Return ``image``, reduced by a whole factor so that its shorter side has 256 to 511 pixels.

    Finer detail is nothing that a network sees, and grain, JPEG's blocks and the time would depend
    on the camera. Smaller images, and those that may not be reduced by ``most``, stay larger.
    """
    factor = int(min(min(image.size) // DETAIL, most))
    return image.reduce(factor) if factor > 1 else image


def _linear(values: Floats) -> Floats:
    """Return sRGB values, 0 to 1, as amounts of light (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _table(light: Floats) -> list[int]:
    """Return amounts of light, of every value of a channel, as a table for `Image.point`."""
    light = np.clip(light, 0, 1)
    values = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return [int(value) for value in np.rint(255 * values)]


_LIGHT = _linear(np.arange(256) / 255)


def _up_or_down(amount: float, random: np.random.Generator) -> float:
    return amount if random.random() < 0.5 else -amount


def _brightness(image: Image.Image, stops: float, random: np.random.Generator) -> Image.Image:
    return image.point(_table(_LIGHT * 2.0 ** _up_or_down(stops, random)) * 3)


def _contrast(image: Image.Image, factor: float, random: np.random.Generator) -> Image.Image:
    mean = np.asarray(image.convert("L")).mean()
    factor **= _up_or_down(1, random)
    values = np.rint(mean + factor * (np.arange(256) - mean)).clip(0, 255)
    return image.point([int(value) for value in values] * 3)


def _white_balance(image: Image.Image, stops: float, random: np.random.Generator) -> Image.Image:
    half = _up_or_down(stops, random) / 2
    tables = (_table(_LIGHT * 2.0**by) for by in (half, 0.0, -half))
    return image.point([value for table in tables for value in table])


def _blur(image: Image.Image, part: float, random: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(part * min(image.size)))


def _motion(image: Image.Image, part: float, random: np.random.Generator) -> Image.Image:
    """Average the picture along a line, its edges continued by their mirror images."""
    length, angle = part * min(image.size), random.uniform(0, math.pi)
    along = np.linspace(-0.5, 0.5, 2 + math.ceil(length)) * length
    taps: dict[tuple[int, int], float] = {}
    for y, x in zip(along * math.sin(angle), along * math.cos(angle), strict=True):
        top, left = math.floor(y), math.floor(x)
        for row, down in ((top, 1 - y + top), (top + 1, y - top)):
            for column, right in ((left, 1 - x + left), (left + 1, x - left)):
                taps[row, column] = taps.get((row, column), 0.0) + down * right / len(along)
    margin = math.ceil(length / 2) + 1
    pixels = np.asarray(image, np.float32)
    padded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), "symmetric")
    total = np.zeros_like(pixels)
    for (row, column), weight in taps.items():
        if weight > 1e-6:
            top, left = margin + row, margin + column
            part_of = padded[top : top + image.height, left : left + image.width]
            total += np.float32(weight) * part_of
    return _image(total)


def _noise(image: Image.Image, part: float, random: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, np.float32)
    grain = random.standard_normal(pixels.shape, np.float32)
    return _image(pixels + np.float32(255 * part) * grain)


def _jpeg(image: Image.Image, quality: float, random: np.random.Generator) -> Image.Image:
    if max(image.size) > _LONGEST_JPEG:
        raise UnusableImage(f"no JPEG has more than {_LONGEST_JPEG:,} pixels on a side")
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(quality))
    with Image.open(file, formats=("JPEG",)) as saved:
        return saved.convert("RGB")


def _rotation(image: Image.Image, degrees: float, random: np.random.Generator) -> Image.Image:
    """Turn the picture around its middle; mirror images fill the corners."""
    angle = math.radians(_up_or_down(degrees, random))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    middle = (np.array([image.height, image.width]) - 1) / 2
    offset = middle - turn @ middle
    channels = [
        affine_transform(np.asarray(channel), turn, offset, order=1, mode="reflect")
        for channel in image.split()
    ]
    return Image.fromarray(np.stack(channels, axis=-1))


def _scale(image: Image.Image, factor: float, random: np.random.Generator) -> Image.Image:
    """Come closer, or go away; mirror images fill the rim."""
    width, height = image.size
    if random.random() < 0.5:
        left, top = width * (1 - 1 / factor) / 2, height * (1 - 1 / factor) / 2
        box = (left, top, width - left, height - top)
        return image.resize(image.size, Image.Resampling.BILINEAR, box=box)
    small = image.resize(_divided(image, factor), Image.Resampling.BILINEAR)
    rim = [(whole - part) // 2 for whole, part in ((height, small.height), (width, small.width))]
    pads = (
        (rim[0], height - small.height - rim[0]),
        (rim[1], width - small.width - rim[1]),
        (0, 0),
    )
    return Image.fromarray(np.pad(np.asarray(small), pads, "symmetric"))


def _occlusion(image: Image.Image, part: float, random: np.random.Generator) -> Image.Image:
    """Cover a rectangle of the picture's proportions, anywhere in it, with one grey."""
    size = _divided(image, 1 / math.sqrt(part))
    place, grey = random.random(2), int(random.integers(256))
    left, top = (
        round(free * (whole - covered))
        for free, whole, covered in zip(place, image.size, size, strict=True)
    )
    result = image.copy()
    result.paste((grey, grey, grey), (left, top, left + size[0], top + size[1]))
    return result


def _haze(image: Image.Image, part: float, random: np.random.Generator) -> Image.Image:
    """Let the part of the light through, less at the top, and add that of a white veil."""
    heights = (np.arange(image.height) + 0.5) / image.height
    let_through = np.rint(255 * part ** (1.5 - heights)).astype(np.uint8)
    mask = Image.fromarray(np.broadcast_to(let_through[:, None], image.size[::-1]).copy())
    return Image.composite(image, Image.new("RGB", image.size, _VEIL), mask)


def _resolution(image: Image.Image, factor: float, random: np.random.Generator) -> Image.Image:
    few = image.resize(_divided(image, factor), Image.Resampling.BOX)
    return few.resize(image.size, Image.Resampling.BILINEAR)


def _divided(image: Image.Image, factor: float) -> tuple[int, int]:
    """Return width and height, divided by ``factor``."""
    return max(1, round(image.width / factor)), max(1, round(image.height / factor))


def _image(pixels: NDArray[np.float32]) -> Image.Image:
    return Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))


_SIDE = "of the shorter side"
SHIFTS: Mapping[str, Shift] = MappingProxyType(
    {
        "brightness": Shift(apply=_brightness, amounts=(0.5, 1, 2), unit="stops"),
        "contrast": Shift(apply=_contrast, amounts=(1.4, 2, 3), unit="factor"),
        "white balance": Shift(apply=_white_balance, amounts=(0.5, 1, 2), unit="stops"),
        "blur": Shift(apply=_blur, amounts=(0.004, 0.008, 0.016), unit=f"sigma, {_SIDE}"),
        "motion": Shift(apply=_motion, amounts=(0.02, 0.04, 0.08), unit=f"length, {_SIDE}"),
        "noise": Shift(apply=_noise, amounts=(0.04, 0.08, 0.16), unit="sigma, of white"),
        "jpeg": Shift(apply=_jpeg, amounts=(30, 15, 8), unit="quality"),
        "rotation": Shift(apply=_rotation, amounts=(5, 10, 20), unit="degrees"),
        "scale": Shift(apply=_scale, amounts=(1.15, 1.3, 1.6), unit="factor"),
        "occlusion": Shift(apply=_occlusion, amounts=(0.05, 0.1, 0.2), unit="of the area"),
        "haze": Shift(apply=_haze, amounts=(0.7, 0.5, 0.3), unit="of the light let through"),
        "resolution": Shift(apply=_resolution, amounts=(2, 3, 5), unit="factor"),
    }
)
