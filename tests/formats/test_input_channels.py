from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.errors import InputError
from mobilette.formats.fitting import adapt_input
from mobilette.formats.pretrained import create_model
from mobilette.nn.network import Network
from tests.models import stem_of


def answer(arch: Arch, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    network = Network(arch).eval()
    network.load_state_dict(weights)
    with torch.no_grad():
        logits: Tensor = network(x)
    return logits


def network_of(in_channels: int) -> tuple[Arch, dict[str, Tensor]]:
    network = create_model("mobilenet_v2", width_mult=0.25, resolution=32, in_channels=in_channels)
    return network.arch, network.state_dict()


@pytest.mark.parametrize("name", ["mobilenet_v1", "squeezenet1_1", "resnet20", "vgg11"])
def test_a_grey_image_gets_the_answer_of_three_equal_channels(name: str) -> None:
    network = create_model(name, width_mult=0.25, resolution=32)
    arch, weights = adapt_input(network.arch, network.state_dict(), 1)
    assert arch == replace(network.arch, in_channels=1)
    grey = torch.randn(2, 1, 32, 32)
    expected = answer(network.arch, network.state_dict(), grey.expand(2, 3, 32, 32))
    torch.testing.assert_close(answer(arch, weights, grey), expected, rtol=1e-4, atol=1e-6)


def test_a_colour_image_of_equal_channels_gets_the_answer_of_one() -> None:
    arch, weights = network_of(1)
    adapted = adapt_input(arch, weights, 3)
    grey = torch.randn(2, 1, 32, 32)
    expected = answer(arch, weights, grey)
    torch.testing.assert_close(
        answer(*adapted, grey.expand(2, 3, 32, 32)), expected, rtol=1e-4, atol=1e-6
    )


def test_two_colour_images_in_one_get_the_answer_of_their_mean() -> None:
    arch, weights = network_of(3)
    adapted = adapt_input(arch, weights, 6)
    first, second = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(
        answer(*adapted, torch.cat([first, second], dim=1)),
        answer(arch, weights, (first + second) / 2),
        rtol=1e-4,
        atol=1e-6,
    )


def test_four_channels_are_red_green_blue_red() -> None:
    arch, weights = network_of(3)
    first = adapt_input(arch, weights, 4)[1]["stem.conv.weight"]
    torch.testing.assert_close(first, weights["stem.conv.weight"][:, [0, 1, 2, 0]] * 0.75)


def test_equal_channels_change_nothing() -> None:
    arch, weights = network_of(3)
    same, unchanged = adapt_input(arch, weights, 3)
    assert same == arch
    assert all(torch.equal(unchanged[key], weights[key]) for key in weights)


def test_impossible_channels_are_refused() -> None:
    arch, weights = network_of(3)
    with pytest.raises(InputError, match="in_channels 0 is not between 1 and 256"):
        adapt_input(arch, weights, 0)
    grouped = replace(arch, in_channels=2, stem=replace(stem_of(arch), groups=2))
    with pytest.raises(InputError, match="2 groups, so it needs 2 channels, not 3"):
        adapt_input(grouped, weights, 3)
