"""What is done about the errors of int8: biases, layers in float, training; and the rescue."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.broken import spread_channels
from mobilette.compression.bias_correction import correct_biases
from mobilette.compression.equalisation import absorb_high_biases, equalise
from mobilette.compression.float_layers import weight_layers
from mobilette.compression.observation import answers, observe
from mobilette.compression.quantisation_aware import train_quantised
from mobilette.compression.rescaling import Rescaling, widen
from mobilette.compression.sensitivity import sensitivity, signal_to_noise
from mobilette.compression.simulation import WeightScales, simulated
from mobilette.errors import InputError
from mobilette.nn.network import Network
from mobilette.training.loss import Loss
from mobilette.training.recipe import Recipe
from tests.compression.networks import bias_of, random_images, random_network


def sharp(name: str, width: float) -> Network:
    """Return a network with ReLU whose answers differ from image to image."""
    rescaling = Rescaling(random_network(name, width))
    network = rescaling.network(widen(rescaling.arch))
    x = random_images(32)
    logits = answers(network, x, network.arch)
    weights = network.state_dict()
    weights["head.classifier.weight"] *= 3 / logits.std(0)[:, None]
    weights["head.classifier.bias"] -= logits.mean(0)
    weights["head.classifier.bias"] *= 3 / logits.std(0)
    network.load_state_dict(weights)
    return network


def agreement(one: Tensor, other: Tensor) -> float:
    return float((one.argmax(1) == other.argmax(1)).double().mean())


def int8(network: Network, inputs: Tensor, x: Tensor, weights: WeightScales) -> Tensor:
    return answers(simulated(network, inputs, weights=weights), x, network.arch)


@pytest.mark.parametrize("name", ["resnet8", "resnet20"])
def test_a_broken_network_is_rescued(name: str) -> None:
    """By chance, one of seven answers agrees."""
    network = sharp(name, 0.5)
    inputs, x = random_images(32), random_images(96, seed=1)
    wanted = answers(network, x, network.arch)
    broken = spread_channels(network)
    assert agreement(answers(broken, x, network.arch), wanted) > 0.98
    plain = agreement(int8(broken, inputs, x, "per_tensor"), wanted)
    rescued = absorb_high_biases(equalise(broken, inputs), inputs)
    rescued = correct_biases(rescued, inputs, ranges="minmax", weights="per_tensor")
    after = agreement(int8(rescued, inputs, x, "per_tensor"), wanted)
    never_spread = agreement(int8(network, inputs, x, "per_tensor"), wanted)
    assert plain < 0.3
    assert after > max(never_spread - 0.05, 0.5)


def mean_errors(network: Network, model: Network, x: Tensor) -> dict[str, float]:
    """Return by layer how far the mean outputs of ``model`` are off, relative to their size."""
    means: tuple[dict[str, Tensor], ...] = ({}, {})
    for which, found in zip((network, model), means, strict=True):
        names = weight_layers(network.arch)

        def take(name: str, output: Tensor, found: dict[str, Tensor] = found) -> None:
            found[name] = output.transpose(0, 1).flatten(1).mean(1)

        observe(which, x, names, take)
    return {
        name: float((means[1][name] - mean).norm() / mean.norm()) for name, mean in means[0].items()
    }


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
def test_corrected_biases_make_fewer_errors_on_average(name: str) -> None:
    network, inputs = random_network(name), random_images(32)
    corrected = correct_biases(network, inputs, ranges="minmax", weights="per_tensor")
    before = mean_errors(network, simulated(network, inputs, weights="per_tensor").network, inputs)
    after = mean_errors(network, simulated(corrected, inputs, weights="per_tensor").network, inputs)
    assert sum(after.values()) < 0.65 * sum(before.values())
    changed = {
        key
        for key, tensor in corrected.state_dict().items()
        if not torch.equal(tensor, network.state_dict()[key])
    }
    assert changed
    assert all(key.endswith(".bias") for key in changed)


def test_biases_of_a_float_network_are_right_already() -> None:
    network, inputs = random_network("mobilenet_v2"), random_images(8)
    weights = correct_biases(
        network, inputs, ranges="minmax", float_layers=weight_layers(network.arch)
    ).state_dict()
    few = sum(
        not torch.allclose(weights[f"{name}.bias"], bias_of(network, name), atol=1e-6)
        for name in weight_layers(network.arch)
    )
    # Activations are int8 where additions and pools read them, and nowhere else.
    assert few < len(weight_layers(network.arch))


@pytest.mark.parametrize(
    ("dead", "name"),
    [
        ("rows.2.depthwise.conv", "rows.2.project.conv"),
        ("rows.17.conv", "head.classifier"),
    ],
)
def test_sensitivity_finds_the_layer_that_was_sabotaged(dead: str, name: str) -> None:
    """Large weights that read nothing but zeros leave the others less than a step."""
    network, inputs = random_network("mobilenet_v2"), random_images(4)
    weights = network.state_dict()
    weights[f"{dead}.weight"][0] = 0
    weights[f"{dead}.bias"][0] = 0
    weights[f"{name}.weight"][:, 0] = 1000 * weights[f"{name}.weight"].abs().max()
    network.load_state_dict(weights)
    labels = answers(network, inputs, network.arch).argmax(1).numpy()
    found = sensitivity(network, inputs, labels, ranges="minmax")
    assert {each.layer for each in found} == set(weight_layers(network.arch))
    decibels = [each.signal_to_noise_db for each in found]
    assert decibels == sorted(decibels)
    assert found[0].layer == name
    assert all(each.accuracy is not None and 0 <= each.accuracy <= 1 for each in found)
    assert found[-1].accuracy == 1.0
    without = sensitivity(network, inputs[:2], None, ranges="percentile")
    assert all(each.accuracy is None for each in without)


divergence = Loss(Recipe(temperature=1.0), multi_label=False).of_teacher


def batches() -> Iterator[Tensor]:
    yield from torch.split(random_images(512, seed=2), 32)


def test_training_brings_int8_closer_to_float() -> None:
    network = spread_channels(sharp("resnet20", 0.25), orders=1.0)
    inputs, x = random_images(32), random_images(64, seed=1)
    wanted = answers(network, x, network.arch)
    before = divergence(int8(network, inputs, x, "per_channel"), wanted)
    steps: list[tuple[int, int]] = []

    def train() -> Network:
        trained = train_quantised(
            network,
            batches,
            inputs=inputs,
            ranges="minmax",
            steps=60,
            report=lambda step, of, _loss: steps.append((step, of)),
        )
        assert trained is not None
        return trained

    trained = train()
    after = divergence(int8(trained, inputs, x, "per_channel"), wanted)
    assert after < 0.8 * before
    assert steps == [(step, 60) for step in range(1, 61)]
    again = train().state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in trained.state_dict().items())


def test_training_that_makes_it_worse_is_not_kept() -> None:
    network = sharp("resnet20", 0.25)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    inputs = random_images(8)
    assert train_quantised(network, batches, inputs=inputs, ranges="minmax", steps=3, lr=10) is None
    after = network.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def test_what_cannot_be_is_said() -> None:
    network, x = random_network("mobilenet_v2"), random_images(2)
    for call in (
        lambda: correct_biases(network, x[:0], ranges="minmax"),
        lambda: sensitivity(network, x[:0], None, ranges="minmax"),
        lambda: train_quantised(network, batches, inputs=x[:0], ranges="minmax", steps=1),
    ):
        with pytest.raises(InputError, match="no images"):
            call()
    with pytest.raises(InputError, match="no batches"):
        train_quantised(network, lambda: [], inputs=x, ranges="minmax", steps=1)
    with pytest.raises(InputError, match="at least 1 step"):
        train_quantised(network, batches, inputs=x, ranges="minmax", steps=0)
    with pytest.raises(InputError, match="as many labels"):
        sensitivity(network, x, np.zeros(3, np.int64), ranges="minmax")


def test_noise_is_measured_in_decibels() -> None:
    signal = torch.full((4,), 10.0)
    assert signal_to_noise(signal, signal + 1.0) == pytest.approx(20.0)
    assert signal_to_noise(signal, signal) == float("inf")
