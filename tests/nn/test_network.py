"""What modules do beyond the contract of tests/contract: padding, features, norms."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.layers import layers, training_layers
from mobilette.arch.primitives import INPUT, DropoutLayer
from mobilette.arch.rows import Block, Conv, PoolLinear, Step
from mobilette.arch.scale import Settings
from mobilette.errors import InputError
from mobilette.formats.pretrained import create_model
from mobilette.nn.convolutions import SamePadConv2d
from mobilette.nn.network import Network


@pytest.mark.parametrize(
    "name", ["mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large_minimalistic", "resnet18"]
)
def test_batch_norm_has_the_archs_epsilon_and_momentum(name: str) -> None:
    network = create_model(name, width_mult=0.25, resolution=32)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    expected = (1e-3, 0.01) if "v3" in name else (1e-5, 0.1)
    assert {(norm.eps, norm.momentum) for norm in norms} == {expected}


def test_features_are_the_last_maps_at_each_stride() -> None:
    network = create_model("mobilenet_v2", width_mult=0.25, resolution=64, form="full").eval()
    maps = network.features(torch.zeros(1, 3, 64, 64))
    assert {stride: tuple(x.shape[-2:]) for stride, x in maps.items()} == {
        2: (32, 32),
        4: (16, 16),
        8: (8, 8),
        16: (4, 4),
        32: (2, 2),
    }
    assert maps[32].shape[1] == 1280


@pytest.mark.parametrize("size", [7, 8, 31, 32])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_same_padding_is_tensorflows(size: int, stride: int, kernel: int) -> None:
    """Each output pixel, written out: the window starts at stride * i - floor(pad / 2)."""
    conv = SamePadConv2d(2, 3, kernel, stride=stride, bias=False)
    x = torch.randn(1, 2, size, size)
    out = conv(x)
    side = -(-size // stride)
    before = max((side - 1) * stride + kernel - size, 0) // 2
    wide = functional.pad(x, (kernel, kernel, kernel, kernel))
    assert out.shape == (1, 3, side, side)
    for i, j in [(0, 0), (0, side - 1), (side - 1, 0), (side // 2, side // 2)]:
        top, left = kernel + stride * i - before, kernel + stride * j - before
        window = wide[0, :, top : top + kernel, left : left + kernel]
        expected = (conv.weight * window).sum(dim=(1, 2, 3))
        torch.testing.assert_close(out[0, :, i, j], expected, rtol=1e-4, atol=1e-5)


def test_an_arch_can_have_biases_same_padding_and_no_norm() -> None:
    conv = Conv(channels=8, kernel=3, stride=2, padding="tf_same", bias=True, activation="relu")
    depthwise = Conv(channels=8, kernel=3, groups=8, norm="none", bias=True, activation="none")
    pointwise = Conv(channels=4, activation="relu6")
    row = Block(
        entry=(
            Step(name="depthwise", operation=depthwise),
            Step(name="pointwise", operation=pointwise),
        )
    )
    arch = Arch(
        name="test",
        resolution=33,
        in_channels=3,
        stem=conv,
        rows=(row,),
        head=PoolLinear(classes=2),
    )
    network = Network(arch)
    assert {"stem.conv.bias", "stem.norm.weight"} <= network.state_dict().keys()
    assert "rows.0.depthwise.norm.weight" not in network.state_dict()
    assert network.eval().features(torch.zeros(1, 3, 33, 33))[2].shape == (1, 4, 17, 17)


def test_create_model_takes_no_unknown_option() -> None:
    with pytest.raises(InputError, match="no option 'width_mul'; did you mean width_mult"):
        create_model("mobilenet_v2", width_mul=0.5)  # type: ignore[call-arg]


def test_dropout_is_a_layer_of_training_alone() -> None:
    arch = get_arch("vgg11_bn", Settings(width_mult=0.25, resolution=32, num_classes=4))
    dropped = [layer for layer in training_layers(arch) if isinstance(layer, DropoutLayer)]
    assert [layer.name for layer in dropped] == ["head.hidden.0.dropout", "head.hidden.1.dropout"]
    network = Network(arch)
    for layer in dropped:
        module = network.get_submodule(layer.name)
        assert isinstance(module, nn.Dropout)
        assert module.p == layer.probability == 0.5
    names = {layer.name for layer in layers(arch)}
    assert names.isdisjoint(layer.name for layer in dropped)
    assert all(names.issuperset({*layer.inputs} - {INPUT}) for layer in layers(arch))
