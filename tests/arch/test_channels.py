from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import list_models
from mobilette.arch.channels import ChannelGroup, Place, channel_groups
from mobilette.arch.layers import layers
from mobilette.arch.primitives import INPUT, ConvLayer, LinearLayer, NormLayer
from mobilette.arch.rows import Block, Conv, PoolLinear, Step
from mobilette.nn.network import Network
from tests.batch_norm import give_statistics
from tests.families import WIDTHS, arch_of


def test_the_example_of_the_module() -> None:
    path = (
        Step(name="expand", operation=Conv(channels=24, activation="relu")),
        Step(name="depthwise", operation=Conv(channels=24, kernel=3, groups=24, activation="relu")),
        Step(name="project", operation=Conv(channels=8, activation="none")),
    )
    arch = Arch(
        name="example",
        resolution=32,
        in_channels=2,
        stem=Conv(channels=8, kernel=3, activation="relu"),
        rows=(Block(paths=(path, ()), join="add"),),
        head=PoolLinear(classes=2),
    )
    stream, expanded = channel_groups(arch)
    all_8, all_24 = tuple(range(8)), tuple(range(24))
    block = "rows.0"
    assert stream.outputs == {
        "stem.conv": all_8,
        "stem.norm": all_8,
        f"{block}.project.conv": all_8,
        f"{block}.project.norm": all_8,
    }
    assert stream.inputs == {f"{block}.expand.conv": all_8, "head.classifier": all_8}
    assert expanded.outputs == {
        f"{block}.{step}.{part}": all_24
        for step in ("expand", "depthwise")
        for part in ("conv", "norm")
    }
    assert expanded.inputs == {f"{block}.project.conv": all_24}


@pytest.mark.parametrize("name", list_models())
def test_every_position_is_in_one_group_but_for_image_and_logits(name: str) -> None:
    arch = arch_of(name, 0.25, resolution=224)
    found: Counter[tuple[str, str, int]] = Counter()
    for group in channel_groups(arch):
        for side, by_layer in (("output", group.outputs), ("input", group.inputs)):
            for name_of_layer, positions in by_layer.items():
                assert len(positions) % group.size == 0
                found.update((name_of_layer, side, position) for position in positions)
    expected = set()
    last = [x.name for x in layers(arch) if x.shape[0] == arch.num_classes and "head" in x.name]
    for layer in layers(arch):
        if not isinstance(layer, ConvLayer | LinearLayer | NormLayer) or layer.name in last:
            sides = []
        else:
            sides = [("output", layer.shape[0])]
        if isinstance(layer, LinearLayer):
            sides.append(("input", layer.in_features))
        elif isinstance(layer, ConvLayer) and layer.inputs != (INPUT,) and not layer.is_depthwise:
            sides.append(("input", layer.in_channels))
        expected |= {(layer.name, side, i) for side, count in sides for i in range(count)}
    assert found.keys() == expected
    assert set(found.values()) == {1}


def kill(network: Network, group: ChannelGroup, channels: list[int]) -> None:
    """Make ``channels`` of ``group`` exactly 0 wherever they are computed."""
    for place in group.places:
        if place.side != "output":
            continue
        positions = [p for channel in channels for p in group.positions(place, channel)]
        for parameter in network.get_submodule(place.layer).parameters():
            parameter.data[positions] = 0


@pytest.mark.parametrize(("name", "width"), [(name, width) for name, _, width in WIDTHS])
@settings(max_examples=4)
@given(data=st.data())
def test_a_channel_that_is_nowhere_computed_is_nowhere_read(
    name: str, width: float, data: st.DataObject
) -> None:
    """In the module itself: what arrives at the layers that read the channel is 0, and else not."""
    network = Network(arch_of(name, width)).eval()
    give_statistics(network, torch.randn(2, 3, 32, 32))
    group = data.draw(st.sampled_from(channel_groups(network.arch)))
    channel = data.draw(st.integers(0, group.size - 1))
    kill(network, group, [channel])
    read: dict[str, Tensor] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        read[names[module]] = inputs[0]

    names = {module: name for name, module in network.named_modules() if name in group.inputs}
    for module in names:
        module.register_forward_pre_hook(note)
    with torch.no_grad():
        network(torch.randn(2, 3, 32, 32))
    for place in group.places:
        if place.side == "input":
            positions = list(group.positions(place, channel))
            arrives = read[place.layer]
            assert not arrives[:, positions].any()
            alive = arrives.flatten(2).abs().sum(dim=-1) if arrives.dim() > 2 else arrives.abs()
            assert (alive.sum(dim=0) > 0).sum() > alive.shape[1] // 4


def test_zeros_before_and_after_are_apart() -> None:
    """Option A: 16 channels, 8 zeros on either side for 32, 16 on either side for 64."""
    stream = [g for g in channel_groups(arch_of("resnet20", 1.0)) if "head.classifier" in g.inputs]
    assert [group.size for group in stream] == [16, 8, 8, 16, 16]
    assert [group.inputs["head.classifier"][0] for group in stream] == [24, 16, 40, 0, 48]
    assert "stem.conv" in stream[0].outputs
    assert all("stem.conv" not in group.outputs for group in stream[1:])


@pytest.mark.parametrize("groups", [2, 3, 8])
def test_groups_of_a_grouped_convolution_are_apart(groups: int) -> None:
    arch = arch_of(f"shufflenet_v1_g{groups}", 1.0)
    conv = next(x for x in layers(arch) if x.name == "rows.1.expand.conv")
    assert isinstance(conv, ConvLayer)
    each = conv.in_channels // groups
    for group in channel_groups(arch):
        for place, positions in group.places.items():
            if place.layer == conv.name and place.side == "input":
                assert {position // each for position in positions} == {place.part}
    parts = {
        place.part for g in channel_groups(arch) for place in g.places if place.side == "input"
    }
    assert parts == set(range(groups))


def test_a_channel_has_a_feature_for_each_pixel_that_a_linear_layer_reads() -> None:
    arch = arch_of("vgg11", 0.125, resolution=224)
    place = Place("head.hidden.0.linear", "input")
    group = next(group for group in channel_groups(arch) if place in group.places)
    assert group.size == 64
    assert group.positions(place, 3) == tuple(range(3 * 49, 4 * 49))
