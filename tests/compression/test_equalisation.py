"""Equalisation never changes what a network answers, and makes ranges of channels alike."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.broken import spread_channels
from mobilette.arch.channels import scaling_groups
from mobilette.arch.editing import change_convs
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ActivationLayer
from mobilette.compression.equalisation import absorb_high_biases, equalise
from mobilette.compression.float_layers import weight_layers
from mobilette.compression.observation import answers
from mobilette.compression.rescaling import Rescaling, widen
from mobilette.errors import InputError
from mobilette.nn.network import Network
from tests.compression.networks import (
    FAMILIES,
    random_images,
    random_network,
    relative_difference,
    weight_of,
)

EXACT = 1e-4  # of the largest logit: float32 through fifty layers


def spread_of_ranges(network: Network) -> float:
    """Return the mean over layers of log10(largest range of an output channel / each one's)."""
    spreads = []
    for name in weight_layers(network.arch):
        limits = weight_of(network, name).abs().flatten(1).amax(1)
        spreads.append(float((limits.max() / limits.clamp_min(1e-12)).log10().mean()))
    return sum(spreads) / len(spreads)


def with_relu(network: Network) -> Network:
    return Rescaling(network).network(widen(network.arch))


def functions(network: Network) -> list[str]:
    return [layer.function for layer in layers(network.arch) if isinstance(layer, ActivationLayer)]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_function_stays_for_every_family(name: str) -> None:
    network, x = random_network(name), random_images(4)
    equal = equalise(network, x)
    assert relative_difference(answers(equal, x, equal.arch), answers(network, x, network.arch)) < (
        EXACT
    )
    if "relu6" not in functions(network):  # then it stays for other images, too
        x = 3 * random_images(4, seed=1)
        wanted = answers(network, x, network.arch)
        assert relative_difference(answers(equal, x, equal.arch), wanted) < EXACT


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "squeezenet1_1_bn", "resnet20"])
def test_ranges_that_were_spread_become_even(name: str) -> None:
    network, x = with_relu(random_network(name)), random_images()
    broken = spread_channels(network)
    wanted = answers(network, x, network.arch)
    assert relative_difference(answers(broken, x, network.arch), wanted) < EXACT
    equal = equalise(broken, x)
    assert relative_difference(answers(equal, x, network.arch), wanted) < EXACT
    assert spread_of_ranges(equal) < 0.75 * spread_of_ranges(broken)
    # The factors are found again: it is what the network that was never spread becomes.
    assert spread_of_ranges(equal) == pytest.approx(
        spread_of_ranges(equalise(network, x)), abs=0.05
    )


def test_a_pair_of_layers_gets_equal_ranges() -> None:
    """Equation 11: for every channel, what computes it and what reads it have one range."""
    network, x = with_relu(random_network("vgg11_bn")), random_images(4)
    equal = Rescaling(equalise(spread_channels(network), x))
    for group in scaling_groups(network.arch):
        computed, read = (
            equal.ranges(group, place)
            for side in ("output", "input")
            for place in group.places
            if place.side == side
        )
        assert float((computed / read).log().abs().max()) < 0.05


def test_what_a_hard_swish_changes_is_left_alone() -> None:
    network, x = random_network("mobilenet_v3_small"), random_images(4)
    before, after = network.state_dict(), equalise(network, x).state_dict()
    swished = {
        layer.inputs[0]
        for layer in layers(network.arch)
        if isinstance(layer, ActivationLayer) and layer.function.startswith("hard")
    }
    assert swished
    for name in swished:  # their outputs are: biases are scaled with outputs only
        assert torch.equal(before[f"{name}.bias"], after[f"{name}.bias"])
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_relu6_is_widened_only_where_nothing_reaches_it() -> None:
    network, x = random_network("mobilenet_v2"), random_images(4)
    quiet = network.state_dict()
    quiet["stem.conv.weight"] *= 0.2
    quiet["stem.conv.bias"] *= 0.2
    network.load_state_dict(quiet)
    found = functions(equalise(network, x))
    assert found[0] == "relu"  # the stem's: a fifth of what it gives stays below 4.8
    assert "relu6" in found
    assert set(functions(equalise(network, x, relu6="keep"))) == {"relu6"}
    assert set(functions(equalise(network, x, relu6="widen"))) == {"relu"}


@settings(max_examples=4)
@given(scale=st.floats(0.05, 20.0), seed=st.integers(0, 3))
def test_under_the_cap_the_function_stays_however_much_is_clipped(scale: float, seed: int) -> None:
    network, x = random_network("mobilenet_v1", resolution=16), random_images(8, resolution=16)
    weights = network.state_dict()
    generator = torch.Generator().manual_seed(seed)
    for name in ("stem.conv", "rows.1.pointwise.conv"):  # some channels far above 6, some below
        factors = scale ** torch.rand(len(weights[f"{name}.bias"]), generator=generator)
        weights[f"{name}.weight"] *= factors.reshape(-1, 1, 1, 1)
        weights[f"{name}.bias"] *= factors
    network.load_state_dict(weights)
    wanted = answers(network, x, network.arch)
    for relu6 in ("auto", "keep"):
        equal = equalise(network, x, relu6=relu6)
        assert relative_difference(answers(equal, x, equal.arch), wanted) < EXACT


def test_absorption_keeps_what_lies_above_the_constant() -> None:
    """Every value that was measured exceeds c: the function is the same, activations smaller."""
    network, x = with_relu(random_network("mobilenet_v2")), random_images()
    high = network.state_dict()
    high["rows.2.depthwise.conv.bias"] += 100.0
    high["rows.2.depthwise.conv.bias"][0] -= 1000.0  # a dead channel has nothing to absorb
    network.load_state_dict(high)
    absorbed = absorb_high_biases(network, x)
    changed = {name for name, t in absorbed.state_dict().items() if not torch.equal(t, high[name])}
    assert "rows.2.depthwise.conv.bias" in changed
    assert "rows.2.project.conv.bias" in changed
    assert not any(name.endswith(".weight") for name in changed)
    assert "rows.2.expand.conv.bias" not in changed  # a 3x3 kernel reads it, with padding
    bias = absorbed.state_dict()["rows.2.depthwise.conv.bias"]
    assert float(bias[1:].max()) < 50
    assert bias[0] == high["rows.2.depthwise.conv.bias"][0]
    wanted = answers(network, x, network.arch)
    assert relative_difference(answers(absorbed, x, network.arch), wanted) < EXACT


def test_absorption_leaves_relu6_residuals_and_scales_alone() -> None:
    for name in ("mobilenet_v2", "mobilenet_v3_small"):
        network, x = random_network(name), random_images(4)
        high = {
            key: tensor + 50.0 if key.endswith(".bias") else tensor
            for key, tensor in network.state_dict().items()
        }
        network.load_state_dict(high)
        for key, tensor in absorb_high_biases(network, x).state_dict().items():
            # The first row of V3 has squeeze-and-excitation behind its ReLU.
            if name == "mobilenet_v2" or key.startswith(("rows.0.depthwise", "rows.0.project")):
                assert torch.equal(tensor, high[key]), key


def test_the_source_is_left_alone_and_bad_input_is_said() -> None:
    network, x = random_network("mobilenet_v2"), random_images(2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    equalise(network, x, relu6="widen")
    absorb_high_biases(network, x)
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    assert set(functions(network)) == {"relu6"}
    with pytest.raises(InputError, match="no images"):
        equalise(network, x[:0])
    with pytest.raises(InputError, match="no images"):
        absorb_high_biases(network, x[:0])
    with pytest.raises(InputError, match="auto, widen, keep"):
        equalise(network, x, relu6="never")  # type: ignore[arg-type]


def test_a_convolution_without_bias_gets_one() -> None:
    network, x = random_network("resnet20"), random_images(2)
    arch = change_convs(
        network.arch,
        lambda name, conv: replace(conv, bias=False) if name == "stem" else conv,
    )
    bare = Network(arch).eval()
    bare.load_state_dict(
        {name: t for name, t in network.state_dict().items() if name != "stem.conv.bias"}
    )
    wanted = answers(bare, x, arch)
    assert relative_difference(answers(equalise(bare, x), x, arch), wanted) < EXACT
