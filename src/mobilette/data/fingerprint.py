"""What tells a set of images from another: of its splits, classes and contents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from mobilette.data.digests import digests_of
from mobilette.data.images import ImageSet, indices_of

_LARGEST = 4 * 10**9  # bytes: more are told apart by names and sizes, as streamed ones of runs are


def fingerprint(rows: Iterable[tuple[str, str, str]]) -> str:
    """Return the SHA-256, in hex, over (split, classes, digest) of every image, in any order."""
    lines = sorted("\0".join(row) for row in rows)  # folder names contain no zero byte
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def fingerprint_of_files(images: ImageSet) -> str:
    """Return a fingerprint of a set that is not decoded: of its files, or of pixels without one."""
    return fingerprint(_rows(images))


def _rows(images: ImageSet) -> Iterator[tuple[str, str, str]]:
    every = [image for some in images.splits.values() for image in some]
    stamps = {image.name: image.stamp() for image in every if not image.in_memory}
    is_large = sum(stamp.size for stamp in stamps.values()) > _LARGEST
    for split, some in images.splits.items():
        if is_large:
            digests = [f"{image.name}\0{stamps[image.name].size}" for image in some]
        else:
            digests = digests_of(some, "files" if stamps else "decoded pixels")
        for image, digest in zip(some, digests, strict=True):
            yield split, ";".join(images.classes[i] for i in indices_of(image.label)), digest
