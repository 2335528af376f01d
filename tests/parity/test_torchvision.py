"""Our networks with torchvision's weights give torchvision's logits."""

from __future__ import annotations

import pytest
import torch

from mobilette.arch.catalogue import get_arch
from mobilette.arch.families.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from mobilette.arch.families.vgg import VARIANTS as VGG
from mobilette.arch.scale import Settings
from tests.parity.libraries import check_parity, library

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
FULL_SIZE = Settings()
# Big networks see smaller images; the layers are the same.
REDUCED = Settings(resolution=96)


@pytest.mark.parametrize("width", [0.35, 0.75, 1.0, 1.4])
def test_mobilenet_v2(width: float) -> None:
    theirs = library("torchvision").models.mobilenet_v2(width_mult=width)
    settings = Settings(width_mult=width, resolution=224 if width == 1 else 96)
    check_parity(get_arch("mobilenet_v2", settings), theirs)


@pytest.mark.parametrize("name", ["mobilenet_v3_large", "mobilenet_v3_small"])
def test_mobilenet_v3(name: str) -> None:
    check_parity(get_arch(name), getattr(library("torchvision").models, name)())


@pytest.mark.parametrize("width", [0.5, 1.25])
def test_mobilenet_v3_as_torchvision_scales_it(width: float) -> None:
    models, settings = library("torchvision").models, Settings(width_mult=width, resolution=96)
    large = mobilenet_v3_large(settings, torchvision=True)
    check_parity(large, models.mobilenet_v3_large(width_mult=width))
    small = mobilenet_v3_small(settings, torchvision=True)
    check_parity(small, models.mobilenet_v3_small(width_mult=width))


@pytest.mark.parametrize(
    ("name", "width"), [("x0_5", 0.5), ("x1_0", 1), ("x1_5", 1.5), ("x2_0", 2)]
)
def test_shufflenet_v2(name: str, width: float) -> None:
    theirs = getattr(library("torchvision").models, f"shufflenet_v2_{name}")()
    check_parity(get_arch("shufflenet_v2", Settings(width_mult=width, resolution=128)), theirs)


@pytest.mark.parametrize("resolution", [96, 227])
@pytest.mark.parametrize("name", ["squeezenet1_0", "squeezenet1_1"])
def test_squeezenet(name: str, resolution: int) -> None:
    """At several sizes, because its pools round up and its stem pads nothing."""
    theirs = getattr(library("torchvision").models, name)()
    check_parity(get_arch(name, Settings(resolution=resolution)), theirs)


@pytest.mark.parametrize("name", RESNETS)
def test_resnet(name: str) -> None:
    settings = FULL_SIZE if name == "resnet18" else REDUCED
    check_parity(get_arch(name, settings), getattr(library("torchvision").models, name)())


@pytest.mark.parametrize("name", VGG)
def test_vgg(name: str) -> None:
    """Published sizes for VGG-11; the others see fewer pixels."""
    settings = FULL_SIZE if name == "vgg11" else REDUCED
    theirs = getattr(library("torchvision").models, name)(init_weights=False)
    with torch.no_grad():
        for tensor in theirs.parameters():  # PyTorch's weights times this are He's, which carry
            tensor *= 6**0.5  # the images to the end of a network without batch norm
    check_parity(get_arch(name, settings), theirs)
