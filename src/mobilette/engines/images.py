"""Accepted images: paths, bytes, files, Pillow images, arrays and tensors."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilette.data.decoding import MAX_BYTES, check_pixels, decode, upright_and_plain
from mobilette.data.formats import DAMAGED, UnusableImage, reason_of
from mobilette.data.names import NO_ADDRESSES, is_address
from mobilette.errors import InputError

EXPECTED = "uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
_CHANNELS = (1, 3, 4)
# Resizing weights that should sum to 1 may exceed it by this much.
_ROUNDING = 1e-3

Array = NDArray[Any]


def is_array(value: object) -> bool:
    """Whether ``value`` is an array or a tensor of any library."""
    return hasattr(value, "__array__") or hasattr(value, "__array_interface__")


def to_array(value: Any) -> tuple[Array, bool]:
    """Return any library's array as NumPy's, and whether it was a PyTorch tensor.

    A tensor may be on another device and part of a graph.
    """
    torch = sys.modules.get("torch")  # imported if there is a tensor
    is_tensor = torch is not None and isinstance(value, torch.Tensor)
    try:
        if torch is not None and is_tensor:
            value = value.detach().cpu().resolve_conj().resolve_neg()
            value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
        return np.asarray(value), is_tensor
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"
        raise UnusableImage(f"{kind} without pixels to read ({reason:.80})") from error


def image_of(value: Any) -> Image.Image:
    """Return one image as it is.

    ``value`` is as for `several`, without N or with N = 1; or a file's content, uint8 (N,).
    """
    array, is_tensor = to_array(value)
    if array.ndim == 1 and array.dtype == np.uint8 and array.size:
        return decode(array.tobytes())
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim == 4:
        raise UnusableImage(
            f"array {array.shape} has {len(array)} images; give the array alone, or list(array)"
        )
    return _image(_last(array, first_wins=is_tensor), _scale(array))


def several(value: Any) -> Iterator[Any]:
    """Return the images of a batch one by one, or the elements of an array of paths.

    ``value`` is (N, H, W, C), (N, C, H, W) or, for grey images, (N, H, W): booleans, integers from
    0 to 255, or floats on that scale or from 0 to 1, which the whole batch decides.
    `UnusableImage` for one image or ambiguous axes.
    """
    array, is_tensor = to_array(value)
    if array.ndim == 1 and (array.dtype.kind in "OSUT" or not array.size):
        return iter(array.tolist())
    _check_several(array)
    if not len(array):
        return iter(())
    scale = _scale(array)
    if array.ndim == 3:
        return (_image(grey, scale) for grey in array)
    _last(array[0], first_wins=is_tensor)  # one check serves all
    return (_image(_last(item, first_wins=is_tensor), scale) for item in array)


def _check_several(array: Array) -> None:
    """Raise `UnusableImage` unless ``array`` may be several images."""
    shape = array.shape
    if array.dtype.kind in "OSUT":
        raise UnusableImage(f"array {shape} of dtype {array.dtype}; give a list of paths")
    if array.ndim == 2:
        raise UnusableImage(f"array {shape} is one grey image; give [image]")
    if array.ndim == 3 and shape[2] in _CHANNELS:
        raise UnusableImage(f"array {shape} is one image; give [image]")
    if array.ndim == 3 and shape[0] in _CHANNELS[1:]:
        raise UnusableImage(
            f"array {shape} is one image with channels first, or {shape[0]} grey ones; "
            "give [image], or list(images)"
        )
    if array.ndim not in (3, 4):
        raise UnusableImage(
            f"array {shape} is not a batch of images; expected a list of {EXPECTED} arrays, or "
            "(N, H, W, C)"
        )


def _last(array: Array, *, first_wins: bool) -> Array:
    """Return one image as (H, W) or (H, W, C).

    An ambiguous shape such as (3, 3, 3) means channels last in NumPy; in a tensor it is an error.
    """
    shape = array.shape
    if array.ndim == 2:
        return array
    if array.ndim != 3:
        raise UnusableImage(f"array {shape} is not an image; expected {EXPECTED}")
    last, first = shape[2] in _CHANNELS, shape[0] in _CHANNELS
    if last and first and first_wins:
        raise UnusableImage(
            f"tensor {shape} may have its channels first or last; give it as a NumPy array "
            "(H, W, C)"
        )
    if last:
        return array
    if first:
        return array.transpose(1, 2, 0)
    what = "2 channels" if 2 in (shape[0], shape[2]) else "no 1, 3 or 4 channels"
    raise UnusableImage(f"array {shape} has {what}; expected {EXPECTED}")


def _scale(array: Array) -> float:
    """Return the factor that brings ``array`` to levels from 0 to 255."""
    kind, width = array.dtype.kind, array.dtype.itemsize
    if kind not in "buif" or width > 8 or (kind, width) == ("u", 2):
        hint = "; convert 16-bit levels with (x // 257).astype('uint8')" * (kind == "u")
        raise UnusableImage(f"array of dtype {array.dtype}; expected {EXPECTED}{hint}")
    if not array.size:
        raise UnusableImage(f"array {array.shape} has no pixels")
    if kind == "b":
        return 255.0
    if array.dtype == np.uint8:
        return 1.0
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 255):  # or NaN
        normalised = " (normalised already? the network does that)" * (kind == "f" and low < 0)
        raise UnusableImage(
            f"array of {array.dtype} from {low:.4g} to {high:.4g}{normalised}; expected 0 to 255"
            + ", or 0 to 1" * (kind == "f")
        )
    if kind != "f":
        return 1.0
    if 1 + _ROUNDING < high < 2:
        raise UnusableImage(
            f"array of {array.dtype} from {low:.4g} to {high:.4g}: is 1 or 255 white? "
            f"Expected {EXPECTED}"
        )
    return 255.0 if high <= 1 + _ROUNDING else 1.0


def _image(array: Array, scale: float) -> Image.Image:
    check_pixels(array.shape[0] * array.shape[1])
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.dtype != np.uint8:
        levels = array.astype(np.float64) * scale
        array = np.rint(levels).clip(0, 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(array))


ImageLike = str | os.PathLike[str] | Image.Image | bytes | BinaryIO | Any
"""A path, a file's bytes, a file opened in binary mode, a Pillow image, an array or a tensor."""

Images = Iterable[ImageLike]
"""Several images; an array of any library is an iterable."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NamedImage:
    """An image that is no file of its own, with the name that its answer has.

    Attributes:
        content: the image, or why it cannot be read.
        seconds: when it is shown, of a frame of a video.
    """

    name: str
    content: ImageLike | UnusableImage
    seconds: float | None = None


def images_of(images: object) -> Iterator[ImageLike]:
    """Return the images given to `predict`: a list of them, or a batch as an array."""
    if isinstance(images, str | os.PathLike | Image.Image | _BYTES) or hasattr(images, "read"):
        raise InputError("several images are expected; give [image]")
    if isinstance(images, Mapping):
        raise InputError("images are expected, not names for them; give list(x.values())")
    try:
        if is_array(images):
            return several(images)
        if isinstance(images, Iterable):
            return iter(images)
    except UnusableImage as error:
        raise InputError(f"several images are expected: {error}") from error
    raise InputError(f"several images are expected, such as [path, ...]; not {_a(images)}")


def may_be_shared(image: ImageLike) -> bool:
    """Whether other threads may be using ``image``, so that only the caller's thread reads it."""
    return not isinstance(image, str | os.PathLike | bytes | NamedImage)


def name_of(image: ImageLike) -> str:
    """Return the path of an image file or a given name; an empty string for other images."""
    if isinstance(image, NamedImage):
        return image.name
    return os.fsdecode(image) if isinstance(image, str | os.PathLike) else ""


def read_image(image: ImageLike) -> Image.Image:
    """Return one image, upright, RGB or grey, opaque; `UnusableImage` if it cannot be read.

    A file is read from its beginning if it is seekable, else from its position.
    """
    if isinstance(image, NamedImage):
        if isinstance(image.content, UnusableImage):
            raise image.content
        return read_image(image.content)
    try:
        if isinstance(image, str | os.PathLike):
            return _of_path(Path(os.fsdecode(image)), str(image))
        if isinstance(image, Image.Image):
            return _of_image(image)
        if isinstance(image, _BYTES):
            return decode(bytes(image))
        if hasattr(image, "read"):
            return decode(_content(image))
        if is_array(image):
            return upright_and_plain(image_of(image))
    except MemoryError:
        raise UnusableImage("too large for the memory") from None
    if isinstance(image, list | tuple):
        raise UnusableImage(
            f"a {type(image).__name__} in the list; expected its images one by one, or "
            f"pixels as an array: {EXPECTED}"
        )
    raise UnusableImage(
        f"{_a(image)} is not an image; expected a path, a Pillow image, {EXPECTED}, the bytes of a "
        "file or a file open in mode 'rb'"
    )


def _of_path(path: Path, given: str) -> Image.Image:
    if not given:
        raise UnusableImage("empty text, not the path of an image")
    try:
        return decode(path)
    except UnusableImage as error:
        if is_address(given):
            raise UnusableImage(NO_ADDRESSES) from error
        if os.path.isdir(path):  # noqa: PTH112  # takes any name
            raise UnusableImage("a folder; give the files in it") from error
        raise


def _of_image(image: Image.Image) -> Image.Image:
    try:
        return upright_and_plain(image)
    except DAMAGED as error:  # a closed image raises any of them
        raise UnusableImage(f"closed or damaged image ({reason_of(error)})") from error


def _content(file: Any) -> bytes:
    """Return a file's content, up to one byte more than is allowed."""
    if isinstance(file, io.TextIOBase):
        raise UnusableImage("a file opened as text; open it in mode 'rb'")
    try:
        if callable(seekable := getattr(file, "seekable", None)) and seekable():
            file.seek(0)
        content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError, TypeError, EOFError) as error:  # closed, or open for writing
        raise UnusableImage(f"a file that cannot be read ({error})") from error
    if not isinstance(content, bytes | bytearray):
        raise UnusableImage(f"a file that returns {_a(content)}, not bytes; open it in mode 'rb'")
    return bytes(content)


def _a(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"


_BYTES = bytes | bytearray | memoryview
