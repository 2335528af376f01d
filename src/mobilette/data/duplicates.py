"""Near duplicates: images that show the same picture, cropped, mirrored or saved differently.

Every image is compared as a grey thumbnail. Its low spatial frequencies (a cosine transform without
the constant, each frequency weighted so that natural images have about the same of all) say what is
in the picture whatever its brightness and contrast. Those of all images are compared with those of
all views of all images, a view being the whole picture or a part of it, mirrored or not: one matrix
product for each view. What is close is then aligned more finely, with twice the frequencies.

The idea of hashing frequencies is that of perceptual hashes (C. Zauner, "Implementation and
Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.1); with numbers in place of
bits, a threshold separates more, and the alignment finds crops.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 32

Kind = Literal["same", "altered", "cropped", "mirrored", "mirrored and cropped"]
EXACT: Kind = "same"
Thumbnails = NDArray[np.uint8]
Floats = NDArray[np.float32]

_COARSE, _FINE = 8, 16  # frequencies on each axis
# Planted copies score at least 0.75 and 0.55 before they are aligned, and 0.87 after it; of 20
# million pairs of different photographs some hundred get as far as to the alignment.
_COARSE_SCORE, _FINE_SCORE, _SAME, _INNER_SCORE = 0.72, 0.5, 0.85, 0.5
_ROWS, _COLUMNS = 512, 8192
_AT_ONCE = 64  # rows of pixels
_FLATTEST = 1.0  # levels: the standard deviation below which a picture shows nothing
_STEP = 0.025
_NO_PAIRS = np.empty((0, 2), np.int64)


@dataclass(frozen=True)
class View:
    """A square part of a picture, as fractions of its sides: first row and column, and side."""

    top: float
    left: float
    side: float

    def near(self, other: View) -> bool:
        """Whether the fine search from one goes to the other."""
        reach = 1.5 * _STEP + 1e-6
        return (
            abs(self.side - other.side) < 2 * _STEP + 1e-6
            and abs(self.top - other.top) < reach
            and abs(self.left - other.left) < reach
        )

    def inside(self) -> View:
        """Return the view without a border."""
        border = 0.15 * self.side
        return View(self.top + border, self.left + border, self.side - 2 * border)


_KINDS: tuple[tuple[Kind, Kind], ...] = (
    ("altered", "cropped"),
    ("mirrored", "mirrored and cropped"),
)
WHOLE = View(0.0, 0.0, 1.0)
# One coarse view covers shifts of half a cell of the coarse frequencies around it.
_VIEWS = (WHOLE, *(View(top / 20, left / 20, 0.9) for top in range(3) for left in range(3)))
_LATTICE = tuple(
    View(top * _STEP, left * _STEP, 1.0 - cut * _STEP)
    for cut in range(6)
    for top in range(cut + 1)
    for left in range(cut + 1)
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two images of one picture.

    Attributes:
        first: the smaller index.
        second: the larger one.
        score: correlation of their frequencies after alignment, up to 1.
        kind: how they differ; ``same`` if no pixel does.
    """

    first: int
    second: int
    score: float
    kind: Kind


def thumbnail(image: Image.Image) -> Thumbnails:
    """Return the thumbnail of a decoded image, uint8 (32, 32), its sides squashed."""
    grey = image if image.mode == "L" else image.convert("L")  # first: a third of the work
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0))


def row_thumbnails(pixels: NDArray[np.uint8]) -> Thumbnails:
    """Return the thumbnails, uint8 (N, 32, 32), of rows that a network reads, (N, C, H, W)."""
    count, channels, height, width = pixels.shape
    thumbnails = np.empty((count, SIDE, SIDE), np.uint8)
    grey = np.array((0.299, 0.587, 0.114) if channels == 3 else (1.0,), np.float32)
    for first in range(0, count, _AT_ONCE):
        part = pixels[first : first + _AT_ONCE].astype(np.float32)
        small = _areas(height) @ (part @ _areas(width).T)
        thumbnails[first : first + _AT_ONCE] = np.rint(np.tensordot(grey, small, axes=(0, 1)))
    return thumbnails


def near_duplicates(
    thumbnails: Thumbnails, *, mirrored: bool = True, threshold: float = _SAME
) -> list[Pair]:
    """Return all pairs of images that show the same picture, the most similar first.

    Found are crops to 0.875 of the sides and more, anywhere, other compression, brightness,
    contrast and size, and, if ``mirrored``, mirror images, and these together. Pictures that show
    nothing (a plain surface) have no duplicates. Takes N² time, and memory for N thumbnails.

    Args:
        thumbnails: uint8 (N, 32, 32), as `thumbnail` makes them.
        mirrored: whether a mirrored picture is the same.
        threshold: the lowest score.
    """
    best: dict[tuple[int, int], Pair] = {}
    for found in _aligned(thumbnails, mirrored=mirrored, threshold=threshold):
        pair = (found.first, found.second)
        if pair not in best or best[pair].score < found.score:
            best[pair] = found
    return sorted(best.values(), key=lambda each: (-each.score, each.first, each.second))


def near_duplicate_groups(
    thumbnails: Thumbnails, *, mirrored: bool = True, threshold: float = _SAME
) -> NDArray[np.int64]:
    """Return a group per image, int64 (N,): near duplicates, directly or through others, share one.

    A group's number is the smallest index in it. The arguments are those of `near_duplicates`.
    """
    found = near_duplicates(thumbnails, mirrored=mirrored, threshold=threshold)
    return joined(((each.first, each.second) for each in found), count=len(thumbnails))


def duplicate_pairs(
    thumbnails: Thumbnails, digests: Sequence[bytes], *, mirrored: bool = True
) -> list[Pair]:
    """Return the exact duplicates, images with equal ``digests``, and the near ones.

    Copies of one image are paired with the first of them, and only this one with near duplicates.
    """
    first: dict[bytes, int] = {}
    exact = [
        Pair(first=first[digest], second=index, score=1.0, kind=EXACT)
        for index, digest in enumerate(digests)
        if first.setdefault(digest, index) != index
    ]
    once = np.array(list(first.values()), np.int64)
    near = near_duplicates(thumbnails[once], mirrored=mirrored)
    return exact + [
        replace(pair, first=int(once[pair.first]), second=int(once[pair.second])) for pair in near
    ]


def joined(pairs: Iterable[tuple[int, int]], *, count: int) -> NDArray[np.int64]:
    """Return the group of each of ``count`` items, the smallest index connected by ``pairs``."""
    parent = list(range(count))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = item = parent[parent[item]]
        return item

    for pair in pairs:
        first, second = sorted(map(root, pair))
        parent[second] = first
    return np.array([root(item) for item in range(count)], np.int64)


def _aligned(thumbnails: Thumbnails, *, mirrored: bool, threshold: float) -> Iterator[Pair]:
    """Yield close pairs after the best alignment; one pair may come several times."""
    whole = _frequencies(thumbnails, WHOLE, _FINE)
    for turned in (False, True)[: 1 + mirrored]:
        found = [_candidates(thumbnails, whole, view, mirrored=turned) for view in _VIEWS]
        used = np.unique(np.concatenate([pairs[:, 0] for pairs in found]))
        for near in _LATTICE if len(used) else ():
            some = [pairs for view, pairs in zip(_VIEWS, found, strict=True) if near.near(view)]
            pairs = np.concatenate([_NO_PAIRS, *some])
            seen = _frequencies(thumbnails[used], near, _FINE, mirrored=turned)
            places = np.stack([np.searchsorted(used, pairs[:, 0]), pairs[:, 1]], axis=1)
            scores = _products(seen, whole, places)
            close = scores >= threshold
            pairs, scores = pairs[close], scores[close]
            same = _same_inside(thumbnails, pairs, near, mirrored=turned)
            kind = _KINDS[turned][near != WHOLE]
            for pair, score in zip(pairs[same].tolist(), scores[same].tolist(), strict=True):
                one, other = sorted(pair)
                yield Pair(first=one, second=other, score=score, kind=kind)


def _same_inside(
    thumbnails: Thumbnails, pairs: NDArray[np.int64], view: View, *, mirrored: bool
) -> NDArray[np.bool_]:
    """Return which pairs also look alike without their borders, (P,): not only their frames."""
    first, second = pairs.T
    seen = _frequencies(thumbnails[first], view.inside(), _COARSE, mirrored=mirrored)
    other = _frequencies(thumbnails[second], WHOLE.inside(), _COARSE)
    plain = ~(seen.any(axis=1) & other.any(axis=1))
    alike: NDArray[np.bool_] = np.einsum("nf,nf->n", seen, other) > _INNER_SCORE
    return alike | plain


def _candidates(
    thumbnails: Thumbnails, whole: Floats, view: View, *, mirrored: bool
) -> NDArray[np.int64]:
    """Return pairs (P, 2): the ``view`` of the first is about like the ``whole`` second."""
    seen = _frequencies(thumbnails, view, _FINE, mirrored=mirrored)
    ours, theirs = _first_frequencies(seen), _first_frequencies(whole)
    found = [_NO_PAIRS]
    for top in range(0, len(seen), _ROWS):
        # The whole picture is like another one as that is like it.
        start = top if view == WHOLE else 0
        for left in range(start, len(whole), _COLUMNS):
            scores = ours[top : top + _ROWS] @ theirs[left : left + _COLUMNS].T
            pairs = np.argwhere(scores > _COARSE_SCORE) + np.array((top, left))
            first, second = pairs.T
            pairs = pairs[first < second if view == WHOLE else first != second]
            found.append(pairs[_products(seen, whole, pairs) > _FINE_SCORE])
    return np.concatenate(found)


def _first_frequencies(fine: Floats) -> Floats:
    """Return the first `_COARSE` of the `_FINE` frequencies, of length 1 again, or 0."""
    flat = np.pad(fine, ((0, 0), (1, 0))).reshape(-1, _FINE, _FINE)[:, :_COARSE, :_COARSE]
    return _of_length_one(flat.reshape(-1, _COARSE * _COARSE)[:, 1:], least=1e-6)


def _products(seen: Floats, whole: Floats, pairs: NDArray[np.int64]) -> Floats:
    """Return the correlation of each pair, (P,)."""
    found = np.empty(len(pairs), np.float32)
    for part in range(0, len(pairs), _COLUMNS):
        first, second = pairs[part : part + _COLUMNS].T
        found[part : part + _COLUMNS] = np.einsum("nf,nf->n", seen[first], whole[second])
    return found


def _frequencies(
    thumbnails: Thumbnails, view: View, count: int, *, mirrored: bool = False
) -> Floats:
    """Return the frequencies of a view of each, float32 (N, count² - 1), of length 1 or 0."""
    rows, columns = _waves(view.top, view.side, count), _waves(view.left, view.side, count)
    found = rows @ (thumbnails.astype(np.float32) @ columns.T)
    if mirrored:
        found[:, :, 1::2] *= -1
    orders = np.arange(count, dtype=np.float32)
    found *= np.hypot(orders[:, None], orders)
    return _of_length_one(found.reshape(-1, count * count)[:, 1:], least=_FLATTEST)


def _of_length_one(rows: Floats, *, least: float) -> Floats:
    """Return rows of length 1; those shorter than ``least`` become 0."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Floats = np.divide(rows, length, out=np.zeros_like(rows), where=length > least)
    return scaled


@cache
def _areas(length: int) -> Floats:
    """Return the part of each of ``length`` pixels in each of ``SIDE``, (SIDE, length)."""
    edges = np.arange(length + 1) / length * SIDE
    inside = np.clip(edges - np.arange(SIDE)[:, None], 0, 1)
    return np.diff(inside, axis=1).astype(np.float32)


@cache
def _waves(start: float, size: float, count: int) -> Floats:
    """Return cosines over a part of a side, (count, SIDE): weights of the pixels in the part."""
    edges = np.clip(np.arange(SIDE + 1) / SIDE, start, start + size)
    middles = (edges[1:] + edges[:-1]) / 2
    angles = np.pi * np.arange(count)[:, None] * (middles - start) / size
    return (np.cos(angles) * np.diff(edges) / size).astype(np.float32)
