"""What `predict` is given, image by image: paths, images, arrays, bytes and open files."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from mobilette.data.decoding import MAX_BYTES, decode, upright_and_plain
from mobilette.data.formats import DAMAGED, UnusableImage, reason_of
from mobilette.data.names import NO_ADDRESSES, is_address
from mobilette.engines.arrays import EXPECTED, image_of, is_array, several
from mobilette.errors import InputError

ImageLike = str | os.PathLike[str] | Image.Image | bytes | BinaryIO | Any
"""One image: the path of a file or its bytes, a file open for reading bytes, a Pillow image,
or an array or tensor (`mobilette.engines.arrays`)."""

Images = Iterable[ImageLike]
"""Several images; an array of any library is an iterable."""


def images_of(images: object) -> Iterator[ImageLike]:
    """Return the images of what `predict` was given: a list of them, or a batch as an array.

    Raises:
        InputError: it is one image, or nothing that has images in it.
    """
    if isinstance(images, str | os.PathLike | Image.Image | _BYTES) or hasattr(images, "read"):
        raise InputError("predict takes several images; give [image]")
    if isinstance(images, Mapping):
        raise InputError("predict takes several images, not names for them; give list(x.values())")
    try:
        if is_array(images):
            return several(images)
        if isinstance(images, Iterable):
            return iter(images)
    except UnusableImage as error:
        raise InputError(f"predict takes several images: {error}") from error
    raise InputError(f"predict takes several images, such as [path, ...]; not {_a(images)}")


def may_be_shared(image: ImageLike) -> bool:
    """Whether other threads may use ``image`` meanwhile, so that it is read by the asking one."""
    return not isinstance(image, str | os.PathLike | bytes)


def name_of(image: ImageLike) -> str:
    """Return the path of an image in a file, of others nothing."""
    return os.fsdecode(image) if isinstance(image, str | os.PathLike) else ""


def read_image(image: ImageLike) -> Image.Image:
    """Return one image as `mobilette.data.decoding.decode` does: upright, RGB or grey, opaque.

    An open file is read from its beginning where it can be rewound, else from where it stands.

    Raises:
        UnusableImage: it cannot be, or is no image.
    """
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
        f"{_a(image)} is no image; expected a path, a Pillow image, {EXPECTED}, the bytes of a "
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
        if os.path.isdir(path):  # noqa: PTH112  # which takes any name
            raise UnusableImage("a folder; give the files in it") from error
        raise


def _of_image(image: Image.Image) -> Image.Image:
    try:
        return upright_and_plain(image)
    except DAMAGED as error:  # of a closed one, which of them varies
        raise UnusableImage(f"closed or damaged image ({reason_of(error)})") from error


def _content(file: Any) -> bytes:
    """Return what an open file holds, up to one byte more than is allowed."""
    if isinstance(file, io.TextIOBase):
        raise UnusableImage("a file opened as text; open it in mode 'rb'")
    try:
        if callable(seekable := getattr(file, "seekable", None)) and seekable():
            file.seek(0)
        content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError, TypeError, EOFError) as error:  # closed, or open for writing
        raise UnusableImage(f"a file that cannot be read ({error})") from error
    if not isinstance(content, bytes | bytearray):
        raise UnusableImage(f"a file that gives {_a(content)}, no bytes; open it in mode 'rb'")
    return bytes(content)


def _a(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"


_BYTES = bytes | bytearray | memoryview
