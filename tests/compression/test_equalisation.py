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
from mobilette.model.model import Model
from tests.compression.networks import (
    FAMILIES,
    copied,
    random_images,
    random_model,
    relative_difference,
)

EXACT = 1e-4  # of the largest logit: float32 through fifty layers


def spread_of_ranges(model: Model) -> float:
    """Return the mean over layers of log10(largest range of an output channel / each one's)."""
    spreads = []
    for name in weight_layers(model.arch):
        limits = model.weights[f"{name}.weight"].abs().flatten(1).amax(1)
        spreads.append(float((limits.max() / limits.clamp_min(1e-12)).log10().mean()))
    return sum(spreads) / len(spreads)


def with_relu(model: Model) -> Model:
    return Rescaling(model).model(widen(model.arch))


def functions(model: Model) -> list[str]:
    return [layer.function for layer in layers(model.arch) if isinstance(layer, ActivationLayer)]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_function_stays_for_every_family(name: str) -> None:
    model, x = random_model(name), random_images(4)
    equal = equalise(model, x)
    assert relative_difference(answers(equal, x), answers(model, x)) < (EXACT)
    if "relu6" not in functions(model):  # then it stays for other images, too
        x = 3 * random_images(4, seed=1)
        wanted = answers(model, x)
        assert relative_difference(answers(equal, x), wanted) < EXACT


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "squeezenet1_1_bn", "resnet20"])
def test_ranges_that_were_spread_become_even(name: str) -> None:
    model, x = with_relu(random_model(name)), random_images()
    broken = spread_channels(model)
    wanted = answers(model, x)
    assert relative_difference(answers(broken, x), wanted) < EXACT
    equal = equalise(broken, x)
    assert relative_difference(answers(equal, x), wanted) < EXACT
    assert spread_of_ranges(equal) < 0.75 * spread_of_ranges(broken)
    # The factors are found again: it is what the model that was never spread becomes.
    assert spread_of_ranges(equal) == pytest.approx(spread_of_ranges(equalise(model, x)), abs=0.05)


def test_a_pair_of_layers_gets_equal_ranges() -> None:
    """Equation 11: for every channel, what computes it and what reads it have one range."""
    model, x = with_relu(random_model("vgg11_bn")), random_images(4)
    equal = Rescaling(equalise(spread_channels(model), x))
    for group in scaling_groups(model.arch):
        computed, read = (
            equal.ranges(group, place)
            for side in ("output", "input")
            for place in group.places
            if place.side == side
        )
        assert float((computed / read).log().abs().max()) < 0.05


def test_what_a_hard_swish_changes_is_left_alone() -> None:
    model, x = random_model("mobilenet_v3_small"), random_images(4)
    before, after = model.weights, equalise(model, x).weights
    swished = {
        layer.inputs[0]
        for layer in layers(model.arch)
        if isinstance(layer, ActivationLayer) and layer.function.startswith("hard")
    }
    assert swished
    for name in swished:  # their outputs are: biases are scaled with outputs only
        assert torch.equal(before[f"{name}.bias"], after[f"{name}.bias"])
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_relu6_is_widened_only_where_nothing_reaches_it() -> None:
    model, x = random_model("mobilenet_v2"), random_images(4)
    quiet = copied(model)
    quiet["stem.conv.weight"] *= 0.2
    quiet["stem.conv.bias"] *= 0.2
    model = replace(model, weights=quiet)
    found = functions(equalise(model, x))
    assert found[0] == "relu"  # the stem's: a fifth of what it gives stays below 4.8
    assert "relu6" in found
    assert set(functions(equalise(model, x, relu6="keep"))) == {"relu6"}
    assert set(functions(equalise(model, x, relu6="widen"))) == {"relu"}


@settings(max_examples=4)
@given(scale=st.floats(0.05, 20.0), seed=st.integers(0, 3))
def test_under_the_cap_the_function_stays_however_much_is_clipped(scale: float, seed: int) -> None:
    model, x = random_model("mobilenet_v1", resolution=16), random_images(8, resolution=16)
    weights = copied(model)
    generator = torch.Generator().manual_seed(seed)
    for name in ("stem.conv", "rows.1.pointwise.conv"):  # some channels far above 6, some below
        factors = scale ** torch.rand(len(weights[f"{name}.bias"]), generator=generator)
        weights[f"{name}.weight"] *= factors.reshape(-1, 1, 1, 1)
        weights[f"{name}.bias"] *= factors
    model = replace(model, weights=weights)
    wanted = answers(model, x)
    for relu6 in ("auto", "keep"):
        equal = equalise(model, x, relu6=relu6)
        assert relative_difference(answers(equal, x), wanted) < EXACT


def test_absorption_keeps_what_lies_above_the_constant() -> None:
    """Every value that was measured exceeds c: the function is the same, activations smaller."""
    model, x = with_relu(random_model("mobilenet_v2")), random_images()
    high = copied(model)
    high["rows.2.depthwise.conv.bias"] += 100.0
    high["rows.2.depthwise.conv.bias"][0] -= 1000.0  # a dead channel has nothing to absorb
    model = replace(model, weights=high)
    absorbed = absorb_high_biases(model, x)
    changed = {name for name, t in absorbed.weights.items() if not torch.equal(t, high[name])}
    assert "rows.2.depthwise.conv.bias" in changed
    assert "rows.2.project.conv.bias" in changed
    assert not any(name.endswith(".weight") for name in changed)
    assert "rows.2.expand.conv.bias" not in changed  # a 3x3 kernel reads it, with padding
    bias = absorbed.weights["rows.2.depthwise.conv.bias"]
    assert float(bias[1:].max()) < 50
    assert bias[0] == high["rows.2.depthwise.conv.bias"][0]
    wanted = answers(model, x)
    assert relative_difference(answers(absorbed, x), wanted) < EXACT


def test_absorption_leaves_relu6_residuals_and_scales_alone() -> None:
    for name in ("mobilenet_v2", "mobilenet_v3_small"):
        model, x = random_model(name), random_images(4)
        high = {
            key: tensor + 50.0 if key.endswith(".bias") else tensor
            for key, tensor in model.weights.items()
        }
        model = replace(model, weights=high)
        for key, tensor in absorb_high_biases(model, x).weights.items():
            # The first row of V3 has squeeze-and-excitation behind its ReLU.
            if name == "mobilenet_v2" or key.startswith(("rows.0.depthwise", "rows.0.project")):
                assert torch.equal(tensor, high[key]), key


def test_the_source_is_left_alone_and_bad_input_is_said() -> None:
    model, x = random_model("mobilenet_v2"), random_images(2)
    before = copied(model)
    equalise(model, x, relu6="widen")
    absorb_high_biases(model, x)
    assert all(torch.equal(t, before[name]) for name, t in model.weights.items())
    assert set(functions(model)) == {"relu6"}
    with pytest.raises(InputError, match="no images"):
        equalise(model, x[:0])
    with pytest.raises(InputError, match="no images"):
        absorb_high_biases(model, x[:0])
    with pytest.raises(InputError, match="'auto' or 'widen' or 'keep'"):
        equalise(model, x, relu6="never")  # type: ignore[arg-type]


def test_a_convolution_without_bias_gets_one() -> None:
    model, x = random_model("resnet20"), random_images(2)
    arch = change_convs(
        model.arch,
        lambda name, conv: replace(conv, bias=False) if name == "stem" else conv,
    )
    weights = {name: t for name, t in model.weights.items() if name != "stem.conv.bias"}
    bare = replace(model, arch=arch, weights=weights)
    wanted = answers(bare, x)
    assert relative_difference(answers(equalise(bare, x), x), wanted) < EXACT
