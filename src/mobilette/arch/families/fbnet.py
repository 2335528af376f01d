"""FBNet-C and Single-Path NAS: tables found by differentiable search.

Wu et al. 2019, "FBNet: Hardware-Aware Efficient ConvNet Design via Differentiable Neural
Architecture Search", arXiv 1812.03443, Table 6; its blocks have the 1x1 expansion even where the
ratio is 1, and the last convolution has timm's 1,984 channels. Stamoulis et al. 2019, "Single-Path
NAS", arXiv 1904.02877, Figure 5, searched for a Pixel 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from mobilette.arch.arch import Arch
from mobilette.arch.families.mnasnet import Stage, searched
from mobilette.arch.scale import Settings

FBNET_C = (
    Stage(3, 1, 16, 1, 1),
    Stage(3, 6, 24, 1, 2),
    Stage(3, 1, 24, 2, 1),
    Stage(5, 6, 32, 1, 2),
    Stage(5, 3, 32, 1, 1),
    Stage(5, 6, 32, 1, 1),
    Stage(3, 6, 32, 1, 1),
    Stage(5, 6, 64, 1, 2),
    Stage(5, 3, 64, 1, 1),
    Stage(5, 6, 64, 2, 1),
    Stage(5, 6, 112, 3, 1),
    Stage(5, 3, 112, 1, 1),
    Stage(5, 6, 184, 4, 2),
    Stage(3, 6, 352, 1, 1),
)
SINGLE_PATH = (
    Stage(3, 1, 16, 1, 1),
    Stage(3, 3, 24, 3, 2),
    Stage(5, 6, 40, 1, 2),
    Stage(3, 3, 40, 3, 1),
    Stage(5, 6, 80, 1, 2),
    Stage(3, 3, 80, 3, 1),
    Stage(5, 6, 96, 1, 1),
    Stage(5, 3, 96, 3, 1),
    Stage(5, 6, 192, 4, 2),
    Stage(3, 6, 320, 1, 1),
)


VARIANTS: Mapping[str, Callable[[Settings], Arch]] = {
    "fbnet_c": partial(
        searched, name="fbnet_c", table=FBNET_C, stem=16, last=1984, expand_always=True
    ),
    "single_path_nas": partial(searched, name="single_path_nas", table=SINGLE_PATH, stem=32),
}
