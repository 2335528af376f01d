"""Arrays and tensors as images: what is meant where it is clear, and where not, what to write."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilette.data.decoding import check_pixels, decode
from mobilette.data.formats import UnusableImage

EXPECTED = "uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
_CHANNELS = (1, 3, 4)
# Sums of weights that make 1 in theory may exceed it by this much.
_ROUNDING = 1e-3

Array = NDArray[Any]


def is_array(value: object) -> bool:
    """Whether ``value`` is an array or a tensor of any library."""
    return hasattr(value, "__array__") or hasattr(value, "__array_interface__")


def to_array(value: Any) -> tuple[Array, bool]:
    """Return an array of any library as one of NumPy, and whether its channels come first.

    A tensor of PyTorch may lie on another device and be part of a graph.

    Raises:
        UnusableImage: it has no values that can be read, or they are no numbers.
    """
    torch = sys.modules.get("torch")  # where there is a tensor, it is imported
    is_tensor = torch is not None and isinstance(value, torch.Tensor)
    try:
        if torch is not None and is_tensor:
            value = value.detach().cpu().resolve_conj().resolve_neg()
            value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
        return np.asarray(value), is_tensor
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise UnusableImage(f"{_kind(value)} without pixels to read ({reason:.80})") from error


def image_of(value: Any) -> Image.Image:
    """Return one image, as it is.

    Args:
        value: as for `several`, but one: without N, or with an N of 1. Or, (N,) of uint8, the
            content of an image's file.

    Raises:
        UnusableImage: it is no one image, or not clear which.
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

    Integers from 0 to 255, floats on that scale or from 0 to 1 (the whole batch decides which),
    and booleans are taken. Channels may come last or first, as far as the shape tells.

    Args:
        value: (N, H, W, C), (N, C, H, W) or, grey, (N, H, W).

    Raises:
        UnusableImage: it is one image, or not clear what.
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
    _last(array[0], first_wins=is_tensor)  # what is wrong with one is with all
    return (_image(_last(item, first_wins=is_tensor), scale) for item in array)


def _check_several(array: Array) -> None:
    """Raise `UnusableImage` where an array is one image, or may be one."""
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
            f"array {shape} is no batch of images; expected a list of {EXPECTED} arrays, or "
            "(N, H, W, C)"
        )


def _last(array: Array, *, first_wins: bool) -> Array:
    """Return one image as (H, W) or (H, W, C).

    Of a shape that could be both, such as (3, 3, 3), NumPy's users mean channels last.
    """
    shape = array.shape
    if array.ndim == 2:
        return array
    if array.ndim != 3:
        raise UnusableImage(f"array {shape} is no image; expected {EXPECTED}")
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
    """Return what makes the values of ``array`` levels from 0 to 255.

    Raises:
        UnusableImage: the dtype or the values have no clear range.
    """
    kind, width = array.dtype.kind, array.dtype.itemsize
    if kind not in "buif" or width > 8 or (kind, width) == ("u", 2):
        hint = "; 16-bit levels become it by (x // 257).astype('uint8')" * (kind == "u")
        raise UnusableImage(f"array of dtype {array.dtype}; expected {EXPECTED}{hint}")
    if not array.size:
        raise UnusableImage(f"array {array.shape} has no pixels")
    if kind == "b":
        return 255.0
    if array.dtype == np.uint8:
        return 1.0
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 255):  # nor are they numbers, perhaps
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


def _kind(value: object) -> str:
    return f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"
