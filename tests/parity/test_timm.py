"""Our networks with timm's weights give timm's logits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.scale import Settings
from tests.parity.libraries import check_parity, library, with_same_padding

# timm's name: ours, width
NETWORKS = {
    "mobilenetv1_100": ("mobilenet_v1", 1.0),
    "mobilenetv1_125": ("mobilenet_v1", 1.25),
    "mobilenetv2_035": ("mobilenet_v2", 0.35),
    "mobilenetv2_050": ("mobilenet_v2", 0.5),
    "mobilenetv2_075": ("mobilenet_v2", 0.75),
    "mobilenetv2_100": ("mobilenet_v2", 1.0),
    "mobilenetv2_140": ("mobilenet_v2", 1.4),
    "mobilenetv2_110d": ("mobilenet_v2_110d", 1.0),
    "mobilenetv2_120d": ("mobilenet_v2_120d", 1.0),
    "mobilenetv3_large_075": ("mobilenet_v3_large", 0.75),
    "mobilenetv3_large_100": ("mobilenet_v3_large", 1.0),
    "mobilenetv3_small_075": ("mobilenet_v3_small", 0.75),
    "mobilenetv3_small_100": ("mobilenet_v3_small", 1.0),
    "tf_mobilenetv3_large_075": ("mobilenet_v3_large", 0.75),
    "tf_mobilenetv3_large_100": ("mobilenet_v3_large", 1.0),
    "tf_mobilenetv3_large_minimal_100": ("mobilenet_v3_large_minimalistic", 1.0),
    "tf_mobilenetv3_small_075": ("mobilenet_v3_small", 0.75),
    "tf_mobilenetv3_small_100": ("mobilenet_v3_small", 1.0),
    "tf_mobilenetv3_small_minimal_100": ("mobilenet_v3_small_minimalistic", 1.0),
    "resnet18": ("resnet18", 1.0),
    "resnet50": ("resnet50", 1.0),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_timm(name: str) -> None:
    theirs = library("timm").create_model(name)
    ours, width = NETWORKS[name]
    arch = get_arch(ours, Settings(width_mult=width, resolution=128))
    if name.startswith("tf_"):  # ported from TensorFlow with its padding
        padded: Arch = with_same_padding(arch)
        arch = padded
    check_parity(replace(arch, norm_epsilon=_epsilon(theirs)), theirs)


def _epsilon(network: nn.Module) -> float:
    """Return the epsilon of all batch norms; timm has 1e-5 where V3's authors have 1e-3."""
    (epsilon,) = {norm.eps for norm in network.modules() if isinstance(norm, nn.BatchNorm2d)}
    return epsilon
