"""Which resolution suits a set of pictures."""

from __future__ import annotations

from statistics import median

from mobilette.data.pictures import PictureSet
from mobilette.data.unusable import UnusablePicture

RESOLUTIONS = (32, 64, 96, 128, 160, 192, 224)
SAMPLE = 64


def suggest_resolution(pictures: PictureSet) -> int:
    """Return the largest usual resolution that does not enlarge the median picture; at least 32.

    The median is that of the shorter sides of up to 64 pictures spread over the set.
    """
    everything = [picture for split in pictures.splits.values() for picture in split]
    sides = []
    for picture in everything[:: max(1, len(everything) // SAMPLE)]:
        try:
            sides.append(min(picture.open().size))
        except UnusablePicture:
            continue
    shorter = median(sides) if sides else RESOLUTIONS[-1]
    return max(
        (size for size in RESOLUTIONS if size <= shorter),
        default=RESOLUTIONS[0],
    )
