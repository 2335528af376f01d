"""Which resolution suits a set of images."""

from __future__ import annotations

from statistics import median

from mobilette.data.images import ImageSet
from mobilette.data.unusable import UnusableImage

RESOLUTIONS = (32, 64, 96, 128, 160, 192, 224)
SAMPLE = 64


def suggest_resolution(images: ImageSet) -> int:
    """Return the largest usual resolution that does not enlarge the median image; at least 32.

    The median is that of the shorter sides of up to 64 images spread over the set.
    """
    everything = [image for split in images.splits.values() for image in split]
    sides = []
    for image in everything[:: max(1, len(everything) // SAMPLE)]:
        try:
            sides.append(min(image.open().size))
        except UnusableImage:
            continue
    shorter = median(sides) if sides else RESOLUTIONS[-1]
    return max(
        (size for size in RESOLUTIONS if size <= shorter),
        default=RESOLUTIONS[0],
    )
