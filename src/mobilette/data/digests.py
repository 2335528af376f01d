"""Sets of images known by their content, so that one is found again under any name."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mobilette.data.formats import UnusableImage
from mobilette.data.images import Digest, LabelledImage, pixel_sha256
from mobilette.data.machine import usable_cores
from mobilette.errors import InputError, shown

_BYTES = 8  # of a SHA-256; among a million images a million others find one by chance in 5e-8
UNUSABLE = "0" * 64  # the digest of an image that cannot be read
_PIXELS: Digest = "decoded pixels"
_FILES: Digest = "files"

Bits = NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Digests:
    """A set of images by the first 64 bits of their SHA-256.

    Attributes:
        pixels: uint64 (N,), ascending: of decoded pixels (`pixel_sha256`). A part of a set has a
            number as often as it has copies of the image.
        files: uint64 (M,), ascending: of the bytes of files.
    """

    pixels: Bits
    files: Bits

    @classmethod
    def of(cls, digests: Iterable[str], kind: Digest, *, copies: bool = False) -> Self:
        """Return the set of images with these SHA-256, in hex, or with ``copies`` all of them."""
        bits = first_bits(digests)
        bits = np.sort(bits) if copies else np.unique(bits)
        bits = bits[bits != 0]  # unusable ones
        none = bits[:0]
        is_pixels = kind == _PIXELS
        return cls(pixels=bits if is_pixels else none, files=none if is_pixels else bits)

    def __or__(self, other: Digests) -> Digests:
        return Digests(
            pixels=np.union1d(self.pixels, other.pixels), files=np.union1d(self.files, other.files)
        )

    def __and__(self, other: Digests) -> Digests:
        return Digests(
            pixels=np.intersect1d(self.pixels, other.pixels),
            files=np.intersect1d(self.files, other.files),
        )

    def __sub__(self, other: Digests) -> Digests:
        return Digests(
            pixels=self.pixels[~np.isin(self.pixels, other.pixels)],
            files=self.files[~np.isin(self.files, other.files)],
        )

    def __len__(self) -> int:
        return len(self.pixels) + len(self.files)

    @property
    def kind(self) -> Digest:
        """The kind of digest to read images by, so that few have to be read twice."""
        return _FILES if len(self.files) and not len(self.pixels) else _PIXELS

    def among(
        self, images: Sequence[LabelledImage], digests: Sequence[str], kind: Digest
    ) -> tuple[NDArray[np.bool_], Digests]:
        """Return which of ``images``, bool (N,), are in this set, and the set of these.

        ``digests`` are the images' own of one ``kind``. Where the set has others, the images are
        read again.
        """
        there, matched = np.zeros(len(images), np.bool_), []
        for own, known in ((_PIXELS, self.pixels), (_FILES, self.files)):
            bits = known[:0]
            if len(known) and len(images):
                bits = first_bits(digests if own == kind else digests_of(images, own))
            same = np.isin(bits, known)
            matched.append(np.unique(bits[same]))
            if len(bits):
                there |= same
        return there, Digests(pixels=matched[0], files=matched[1])

    def to_json(self) -> dict[str, str]:
        """Return the set as JSON values: 16 hexadecimal digits per image, one after another."""
        return {
            kind: bits.astype(">u8").tobytes().hex()
            for kind, bits in ((_PIXELS, self.pixels), (_FILES, self.files))
            if len(bits)
        }

    @classmethod
    def from_json(cls, value: object, *, where: str) -> Self:
        """Return the set that `to_json` described; `InputError` naming ``where`` if damaged."""
        recorded = value if isinstance(value, Mapping) else {}
        arrays = []
        for kind in (_PIXELS, _FILES):
            text = recorded.get(kind, "")
            try:
                content = bytes.fromhex(text)
                arrays.append(np.sort(np.frombuffer(content, ">u8").astype(np.uint64)))
            except (TypeError, ValueError):
                raise InputError(
                    f"{where}: {kind} is {shown(text)}, not 16 hexadecimal digits per image"
                ) from None
        return cls(pixels=arrays[0], files=arrays[1])


NONE = Digests(pixels=np.empty(0, np.uint64), files=np.empty(0, np.uint64))


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """What is known of the images that a model was trained on.

    Attributes:
        images: those that it, or a model that it was started from, was trained on.
        parts: those held out of a set that was divided for it, by split.
        names: their names then, which tell copies of an image apart.
        unknown: why there may be others; empty if there are none.
    """

    images: Digests = NONE
    parts: Mapping[str, Digests] = field(default_factory=lambda: MappingProxyType({}))
    names: Mapping[str, Collection[str]] = field(default_factory=lambda: MappingProxyType({}))
    unknown: str = ""

    def for_another(self) -> Trained:
        """Return what another run keeps of this: an image that was trained on is in no part."""
        parts = {name: part - self.images for name, part in self.parts.items()}
        return replace(self, parts=MappingProxyType(parts))

    def remarks(self) -> tuple[str, ...]:
        """Return a line if not all images are known."""
        if not self.unknown:
            return ()
        what = "what else it" if len(self.images) else "what the model"
        return (f"{what} was trained on is not known: {self.unknown}",)


NEW = Trained()


def first_bits(digests: Iterable[str]) -> Bits:
    """Return the first 64 bits of each SHA-256 in hex, uint64 (N,)."""
    content = bytes.fromhex("".join(digest[: 2 * _BYTES] for digest in digests))
    return np.frombuffer(content, ">u8").astype(np.uint64)


def digests_of(images: Sequence[LabelledImage], kind: Digest) -> list[str]:
    """Return each image's SHA-256, in hex, of its decoded pixels or of its file.

    It is zeros for an image that cannot be read, or has no file.
    """
    one = _of_pixels if kind == _PIXELS else _of_file
    with ThreadPoolExecutor(usable_cores()) as threads:
        return list(threads.map(one, images))


def _of_pixels(image: LabelledImage) -> str:
    try:
        return pixel_sha256(image.open())
    except UnusableImage:
        return UNUSABLE


def _of_file(image: LabelledImage) -> str:
    try:
        return UNUSABLE if image.in_memory else hashlib.sha256(image.read()).hexdigest()
    except UnusableImage:
        return UNUSABLE
