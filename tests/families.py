"""Networks of every family, narrow enough for tests: (name, wider width, narrower width)."""

from __future__ import annotations

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.scale import Settings

# One of every kind of block and head; both forms of the ShuffleNets' bookkeeping (V1 in groups).
WIDTHS = (
    ("mobilenet_v1", 0.5, 0.25),
    ("mobilenet_v1_full_conv", 0.25, 0.125),
    ("mobilenet_v2", 0.75, 0.5),
    ("mobilenet_v3_large", 0.75, 0.5),
    ("mobilenet_v3_small", 1.0, 0.75),
    ("mobilenet_v3_small_minimalistic", 1.0, 0.75),
    ("mobilenet_v4_conv_small", 0.75, 0.5),
    ("mnasnet_a1", 0.75, 0.5),
    ("fbnet_c", 0.75, 0.5),
    ("efficientnet_lite0", 0.75, 0.5),
    ("pp_lcnet", 0.75, 0.5),
    ("ghostnet", 0.75, 0.5),
    ("repvgg_a0", 0.5, 0.25),
    ("mobileone_s0", 0.5, 0.25),
    ("squeezenet1_0", 0.5, 0.25),
    ("squeezenet1_1_bn", 0.5, 0.25),
    ("shufflenet_v1_g1", 0.5, 0.25),
    ("shufflenet_v1_g3", 1.0, 0.5),
    ("shufflenet_v1_g8", 1.0, 0.5),
    ("shufflenet_v2", 1.0, 0.5),
    ("resnet18", 0.25, 0.125),
    ("resnet50", 0.25, 0.125),
    ("resnet20", 1.0, 0.75),
    ("resnet8", 1.0, 0.5),
    ("vgg11", 0.25, 0.125),
    ("vgg11_bn", 0.25, 0.125),
)


def arch_of(name: str, width: float, *, resolution: int = 32, classes: int = 7) -> Arch:
    return get_arch(name, Settings(width_mult=width, resolution=resolution, num_classes=classes))
