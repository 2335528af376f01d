"""What is done about the errors of int8: biases, layers in float, training; and the rescue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle

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
from mobilette.compression.simulation import (
    WeightScales,
    sensitivity,
    signal_to_noise,
    simulated,
)
from mobilette.errors import InputError
from mobilette.model.model import Model
from mobilette.nn.network import Network
from mobilette.training.loss import Loss
from mobilette.training.recipe import Recipe
from tests.compression.networks import copied, random_images, random_model


def sharp(name: str, width: float) -> Model:
    """Return a model with ReLU whose answers differ from image to image."""
    rescaling = Rescaling(random_model(name, width))
    model = rescaling.model(widen(rescaling.arch))
    logits = answers(model, random_images(32))
    weights = copied(model)
    weights["head.classifier.weight"] *= 3 / logits.std(0)[:, None]
    weights["head.classifier.bias"] -= logits.mean(0)
    weights["head.classifier.bias"] *= 3 / logits.std(0)
    return replace(model, weights=weights)


def agreement(one: Tensor, other: Tensor) -> float:
    return float((one.argmax(1) == other.argmax(1)).double().mean())


def int8(model: Model, inputs: Tensor, x: Tensor, weights: WeightScales) -> Tensor:
    return answers(simulated(model, inputs, weights=weights), x)


@pytest.mark.parametrize("name", ["resnet8", "resnet20"])
def test_a_broken_network_is_rescued(name: str) -> None:
    """By chance, one of seven answers agrees."""
    model = sharp(name, 0.5)
    inputs, x = random_images(32), random_images(96, seed=1)
    wanted = answers(model, x)
    broken = spread_channels(model)
    assert agreement(answers(broken, x), wanted) > 0.98
    plain = agreement(int8(broken, inputs, x, "per_tensor"), wanted)
    rescued = absorb_high_biases(equalise(broken, inputs), inputs)
    rescued = correct_biases(rescued, inputs, ranges="minmax", weights="per_tensor")
    after = agreement(int8(rescued, inputs, x, "per_tensor"), wanted)
    never_spread = agreement(int8(model, inputs, x, "per_tensor"), wanted)
    assert plain < 0.3
    assert after > max(never_spread - 0.05, 0.5)


def mean_errors(wanted: Network, found: Network, x: Tensor) -> dict[str, float]:
    """Return by layer how far the mean outputs of ``found`` are off, relative to their size."""
    means: tuple[dict[str, Tensor], ...] = ({}, {})
    for network, by_layer in zip((wanted, found), means, strict=True):
        names = weight_layers(network.arch)

        def take(name: str, output: Tensor, by_layer: dict[str, Tensor] = by_layer) -> None:
            by_layer[name] = output.transpose(0, 1).flatten(1).mean(1)

        observe(network, x, names, take)
    return {
        name: float((means[1][name] - mean).norm() / mean.norm()) for name, mean in means[0].items()
    }


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
def test_corrected_biases_make_fewer_errors_on_average(name: str) -> None:
    model, inputs = random_model(name), random_images(32)
    corrected = correct_biases(model, inputs, ranges="minmax", weights="per_tensor")
    before = mean_errors(
        model.network, simulated(model, inputs, weights="per_tensor").network, inputs
    )
    after = mean_errors(
        model.network, simulated(corrected, inputs, weights="per_tensor").network, inputs
    )
    assert sum(after.values()) < 0.65 * sum(before.values())
    changed = {
        key
        for key, tensor in corrected.weights.items()
        if not torch.equal(tensor, model.weights[key])
    }
    assert changed
    assert all(key.endswith(".bias") for key in changed)


def test_biases_of_a_float_network_are_right_already() -> None:
    model, inputs = random_model("mobilenet_v2"), random_images(8)
    names = weight_layers(model.arch)
    weights = correct_biases(model, inputs, ranges="minmax", float_layers=names).weights
    biases = [f"{name}.bias" for name in names]
    few = sum(not torch.allclose(weights[bias], model.weights[bias], atol=1e-6) for bias in biases)
    # Activations are int8 where additions and pools read them, and nowhere else.
    assert few < len(biases)


@pytest.mark.parametrize(
    ("dead", "name"),
    [
        ("rows.2.depthwise.conv", "rows.2.project.conv"),
        ("rows.17.conv", "head.classifier"),
    ],
)
def test_sensitivity_finds_the_layer_that_was_sabotaged(dead: str, name: str) -> None:
    """Large weights that read nothing but zeros leave the others less than a step."""
    model, inputs = random_model("mobilenet_v2"), random_images(4)
    weights = copied(model)
    weights[f"{dead}.weight"][0] = 0
    weights[f"{dead}.bias"][0] = 0
    weights[f"{name}.weight"][:, 0] = 1000 * weights[f"{name}.weight"].abs().max()
    model = replace(model, weights=weights)
    labels = answers(model, inputs).argmax(1).numpy()
    found = sensitivity(model, inputs, labels, ranges="minmax")
    assert {each.layer for each in found} == set(weight_layers(model.arch))
    decibels = [each.signal_to_noise_db for each in found]
    assert decibels == sorted(decibels)
    assert found[0].layer == name
    assert all(each.accuracy is not None and 0 <= each.accuracy <= 1 for each in found)
    assert found[-1].accuracy == 1.0
    without = sensitivity(model, inputs[:2], None, ranges="percentile")
    assert all(each.accuracy is None for each in without)


divergence = Loss(Recipe(temperature=1.0), multi_label=False).of_teacher


def batches() -> Iterator[Tensor]:
    return cycle(torch.split(random_images(512, seed=2), 32))


def test_training_brings_int8_closer_to_float() -> None:
    model = spread_channels(sharp("resnet20", 0.25), orders=1.0)
    inputs, x = random_images(32), random_images(64, seed=1)
    wanted = answers(model, x)
    before = divergence(int8(model, inputs, x, "per_channel"), wanted)
    steps: list[tuple[int, int]] = []

    def train() -> Model:
        trained = train_quantised(
            model,
            batches(),
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
    again = train().weights
    assert all(torch.equal(tensor, again[name]) for name, tensor in trained.weights.items())


def test_training_that_makes_it_worse_is_not_kept() -> None:
    model = sharp("resnet20", 0.25)
    before = copied(model)
    inputs = random_images(8)
    assert train_quantised(model, batches(), inputs=inputs, ranges="minmax", steps=3, lr=10) is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.weights.items())
    after = model.network.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def test_what_cannot_be_is_said() -> None:
    model, x = random_model("mobilenet_v2"), random_images(2)
    for call in (
        lambda: correct_biases(model, x[:0], ranges="minmax"),
        lambda: sensitivity(model, x[:0], None, ranges="minmax"),
        lambda: train_quantised(model, batches(), inputs=x[:0], ranges="minmax", steps=1),
    ):
        with pytest.raises(InputError, match="no images"):
            call()
    with pytest.raises(InputError, match="at least 1 step"):
        train_quantised(model, batches(), inputs=x, ranges="minmax", steps=0)
    with pytest.raises(InputError, match="as many labels"):
        sensitivity(model, x, np.zeros(3, np.int64), ranges="minmax")


def test_noise_is_measured_in_decibels() -> None:
    signal = torch.full((4,), 10.0)
    assert signal_to_noise(signal, signal + 1.0) == pytest.approx(20.0)
    assert signal_to_noise(signal, signal) == float("inf")
