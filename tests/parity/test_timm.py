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
    "mobilenetv4_conv_small_050": ("mobilenet_v4_conv_small", 0.5),
    "mobilenetv4_conv_medium": ("mobilenet_v4_conv_medium", 1.0),
    "mobilenetv4_conv_large": ("mobilenet_v4_conv_large", 1.0),
    "mnasnet_050": ("mnasnet_b1", 0.5),
    "semnasnet_075": ("mnasnet_a1", 0.75),
    "mnasnet_small": ("mnasnet_small", 1.0),
    "fbnetc_100": ("fbnet_c", 1.0),
    "spnasnet_100": ("single_path_nas", 1.0),
    "efficientnet_lite0": ("efficientnet_lite0", 1.0),
    "efficientnet_lite3": ("efficientnet_lite3", 1.0),
    "tf_efficientnet_lite2": ("efficientnet_lite2", 1.0),
    "lcnet_050": ("pp_lcnet", 0.5),
    "lcnet_150": ("pp_lcnet", 1.5),
    "ghostnet_050": ("ghostnet", 0.5),
    "ghostnet_130": ("ghostnet", 1.3),
    "repvgg_a0": ("repvgg_a0", 1.0),
    "mobileone_s0": ("mobileone_s0", 1.0),
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
