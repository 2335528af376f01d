from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mobilette.formats.pretrained import create_model
from mobilette.training.optimiser import (
    SCALE,
    WeightAverage,
    build_optimizer,
    learning_rate,
    scale_classifier,
)
from mobilette.training.recipe import Recipe
from mobilette.training.start import shrink_classifier


def test_decay_spares_norms_biases_and_depthwise_kernels() -> None:
    network = create_model("mobilenet_v3_small", width_mult=0.35, resolution=32)
    decayed, exempt = build_optimizer(network, Recipe(weight_decay=0.1)).param_groups
    names = {id(p): name for name, p in network.named_parameters()}
    decayed_names = {names[id(p)] for p in decayed["params"]}
    exempt_names = {names[id(p)] for p in exempt["params"]}
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.1, 0.0)
    assert decayed_names | exempt_names == set(names.values())
    assert {"stem.conv.weight", "head.classifier.weight"} <= decayed_names
    assert not any(n.endswith("bias") or ".norm." in n for n in decayed_names)
    assert not any("depthwise" in name for name in decayed_names)


@pytest.mark.parametrize(
    ("squared", "scale"), [(1_000.0, 0.1), (50.0, 1.0), (100.0, 1.0), (400_000.0, 0.00025)]
)
def test_a_classifier_that_sees_long_vectors_learns_slowly(squared: float, scale: float) -> None:
    network = create_model("mobilenet_v3_small", width_mult=0.35, resolution=32)
    recipe = Recipe(lr=0.02, body_lr=0.1, frozen_epochs=1)
    optimizer = build_optimizer(network, recipe)
    scale_classifier(optimizer, network, recipe, squared=squared)
    own = set(network.head.get_submodule("classifier").parameters())
    for group in optimizer.param_groups:
        of_classifier = group["params"][0] in own
        assert group[SCALE] == pytest.approx(scale if of_classifier else 1.0)
        # Hidden layers of the head are given weights, too: they learn as the body does.
        assert group["lr_factor"] == (1.0 if of_classifier else 0.1)


def test_one_rate_for_everything_is_left_alone() -> None:
    network = create_model("mobilenet_v1", width_mult=0.25, resolution=32)
    recipe = Recipe()
    optimizer = build_optimizer(network, recipe)
    scale_classifier(optimizer, network, recipe, squared=1e6)
    assert [group[SCALE] for group in optimizer.param_groups] == [1.0, 1.0]


@given(st.floats(0, 0.9), st.floats(-1, 2))
def test_the_rate_stays_between_zero_and_its_peak(warmup: float, progress: float) -> None:
    recipe = Recipe(lr=0.3, warmup=warmup)
    assert 0 <= learning_rate(recipe, progress) <= 0.3


def test_the_rate_rises_then_falls_to_zero() -> None:
    recipe = Recipe(lr=0.4, warmup=0.2)
    rates = [learning_rate(recipe, p) for p in (0, 0.1, 0.2, 0.6, 1.0)]
    assert rates == pytest.approx([0, 0.2, 0.4, 0.2, 0.0])
    assert learning_rate(Recipe(lr=0.4, warmup=0.0), 0.0) == pytest.approx(0.4)


def test_the_average_follows_the_weights() -> None:
    network = create_model("mobilenet_v1", width_mult=0.25, resolution=32)
    average = WeightAverage(network, decay=0.5)
    before = {name: tensor.clone() for name, tensor in average.network.named_parameters()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(2)
    average.update(average.share(1000))
    for name, parameter in average.network.named_parameters():
        torch.testing.assert_close(parameter, before[name] + 1)
    assert not average.network.training
    assert not any(p.requires_grad for p in average.network.parameters())


def test_measured_statistics_are_those_of_the_averaged_weights() -> None:
    """With one batch, evaluation must answer as training mode does on that batch."""
    network = create_model("mobilenet_v1", num_classes=4, width_mult=0.25, resolution=32)
    average = WeightAverage(network, decay=0.5)
    batch = torch.randn(64, 3, 32, 32) * 3 + 1
    average.measure_statistics([batch])
    expected = network.train()(batch)
    answer = average.network(batch)
    # Running variances are unbiased, batch variances are not: 1/64 at the last 4x4 maps.
    torch.testing.assert_close(answer, expected, rtol=0.02, atol=0.02)
    assert not any(module.training for module in average.network.modules())
    norms = [m for m in average.network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {network.arch.norm_momentum}


def test_the_average_starts_quickly() -> None:
    network = create_model("mobilenet_v1", width_mult=0.25, resolution=32)
    average = WeightAverage(network, decay=0.999)
    with torch.no_grad():
        network.head.get_parameter("classifier.bias").fill_(10.0)
    average.update(average.share(0))
    bias = average.network.head.get_parameter("classifier.bias")
    assert torch.allclose(bias, torch.full_like(bias, 9.0))


@pytest.mark.parametrize(("squared", "spread"), [(210_000.0, 1.0), (4.0, 0.02)])
def test_a_new_classifier_is_not_sure_at_first(squared: float, spread: float) -> None:
    """SqueezeNet's vectors are 460 long: drawn weights answered with a loss of 160."""
    layer = torch.nn.Conv2d(512, 5, 1)
    with torch.no_grad():
        layer.weight.normal_(0, 0.6 if squared > 4 else 0.01)
    shrink_classifier(layer, squared)
    logits_spread = float(layer.weight.detach().std()) * squared**0.5
    assert logits_spread == pytest.approx(spread, rel=0.1)
