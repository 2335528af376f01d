"""A heat map over the picture that it is about."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilette.workflows.report_answers import HeatMap

# Of the picture, which is grey, at the coldest place and at the warmest.
_COLD, _WARM = 0.8, 0.35


def drawn(heat: HeatMap) -> Image.Image:
    """Return what the network saw, in grey, with the places that spoke for its answer coloured."""
    from matplotlib import colormaps

    channels, height, width = heat.pixels.shape
    grey = heat.pixels.mean(axis=0, keepdims=True) if channels == 3 else heat.pixels[:1]
    smooth = Image.fromarray(np.ascontiguousarray(heat.map, np.float32)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    warmth = np.clip(np.asarray(smooth), 0, 1)
    colours: NDArray[np.float64] = colormaps["inferno"](warmth)[..., :3]
    share = (_COLD + (_WARM - _COLD) * warmth)[..., None]
    pixels = share * np.moveaxis(grey, 0, -1) + (1 - share) * 255 * colours
    return Image.fromarray(pixels.round().astype(np.uint8))
