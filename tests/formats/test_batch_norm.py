from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.rows import Conv, PoolLinear
from mobilette.arch.scale import Settings
from mobilette.compression.folding import fold
from mobilette.errors import InputError
from mobilette.formats.fitting import measure_batch_norm, restore_batch_norm
from mobilette.nn.network import Network
from tests.batch_norm import give_statistics
from tests.models import model_of, stem_of

KINDS = [
    *("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "squeezenet1_1_bn"),
    *("shufflenet_v1_g3", "shufflenet_v2", "resnet20", "resnet8", "vgg11_bn"),
]


def network_of(name: str) -> Network:
    torch.manual_seed(0)
    settings = Settings(width_mult=0.35, resolution=32, num_classes=7)
    network = Network(get_arch(name, settings)).eval()
    give_statistics(network, torch.randn(8, 3, 32, 32))
    return network


def loaded(arch: Arch, weights: dict[str, Tensor]) -> Network:
    network = Network(arch).eval()
    network.load_state_dict(weights)
    return network


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_the_restored_network_answers_as_the_folded_one_and_has_batch_norms(name: str) -> None:
    network = network_of(name)
    model = fold(model_of(network))
    folded, weights = model.arch, dict(model.weights)
    before = {key: tensor.clone() for key, tensor in weights.items()}
    measured = torch.randn(12, 3, 32, 32)
    batches = [measured[:7], measured[7:8], measured[8:]]
    arch, restored = restore_batch_norm(folded, weights, network.arch, batches)
    assert arch == network.arch
    assert all(torch.equal(weights[key], before[key]) for key in before), "the source was changed"
    restored_network = loaded(arch, restored)
    x = torch.randn(4, 3, 32, 32)
    expected, answer = loaded(folded, weights)(x), restored_network(x)
    assert (answer - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (expected - network(x)).abs().max() < 1e-4 * expected.abs().max()
    # In training the statistics are those of the batch: on what was measured, the same answers.
    expected = restored_network(measured)
    for module in restored_network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train()
    answer = restored_network(measured)
    assert (answer - expected).abs().max() < 1e-3 * expected.abs().max()
    fainter = 0.3 * measured
    expected = loaded(folded, weights)(fainter)
    assert (restored_network(fainter) - expected).abs().max() > 0.02 * expected.abs().max()


@torch.no_grad()
def test_kernels_get_the_length_of_trained_ones() -> None:
    network = network_of("mobilenet_v1")
    model = fold(model_of(network))
    folded, weights = model.arch, dict(model.weights)
    _, restored = restore_batch_norm(folded, weights, network.arch, [torch.randn(8, 3, 32, 32)])
    for name in ("rows.1.depthwise.conv.weight", "rows.1.pointwise.conv.weight"):
        weight = restored[name]
        usual = 3.0 if "depthwise" in name else (2 * weight.shape[1] / weight.shape[0]) ** 0.5
        torch.testing.assert_close(
            weight.flatten(1).norm(dim=1), torch.full((len(weight),), usual), rtol=1e-4, atol=0
        )


def conv_then_linear(norm: bool, channels: int = 4) -> Arch:
    stem = Conv(
        channels=channels,
        kernel=3,
        activation="none",
        norm="batch" if norm else "none",
        bias=not norm,
    )
    head = PoolLinear(classes=2)
    return Arch(name="test", resolution=16, in_channels=3, stem=stem, rows=(), head=head)


def test_statistics_are_those_of_all_pixels_without_the_bias() -> None:
    folded, like = conv_then_linear(norm=False), conv_then_linear(norm=True)
    weights = Network(folded).state_dict()
    weights["stem.conv.bias"].uniform_()
    x = 1000 + torch.randn(9, 3, 16, 16)
    _, restored = restore_batch_norm(folded, weights, like, [x[:2], x[2:3], x[3:]])
    y = torch.nn.functional.conv2d(x.double(), restored["stem.conv.weight"].double(), padding=1)
    torch.testing.assert_close(
        restored["stem.norm.running_mean"].double(), y.mean(dim=(0, 2, 3)), rtol=1e-5, atol=1e-3
    )
    variance = y.var(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(
        restored["stem.norm.running_var"].double(), variance, rtol=1e-4, atol=1e-3
    )


@torch.no_grad()
def test_dead_channels_stay_finite_and_can_be_trained_on() -> None:
    folded, like = conv_then_linear(norm=False), conv_then_linear(norm=True)
    weights = Network(folded).state_dict()
    weights["stem.conv.weight"][1] = 0
    weights["stem.conv.bias"][1] = 3
    x = torch.randn(4, 3, 16, 16)
    arch, restored = restore_batch_norm(folded, weights, like, [x])
    assert restored["stem.norm.weight"][1] < 0.01
    assert restored["stem.norm.bias"][1] == 3
    network = loaded(arch, restored)
    assert (network(x) - loaded(folded, weights)(x)).abs().max() < 1e-5
    with torch.enable_grad():
        network.train()(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_activations_padding_and_classes_stay() -> None:
    folded = conv_then_linear(norm=False)
    folded = replace(
        folded.with_classes(3), stem=replace(stem_of(folded), activation="relu6", padding="tf_same")
    )
    like = replace(conv_then_linear(norm=True), norm_epsilon=1e-3, norm_momentum=0.01)
    weights = Network(folded).state_dict()
    arch, _ = restore_batch_norm(folded, weights, like, [torch.randn(2, 3, 16, 16)])
    assert arch == replace(
        folded,
        stem=replace(stem_of(folded), norm="batch", bias=False),
        norm_epsilon=1e-3,
        norm_momentum=0.01,
    )


def test_no_images_are_refused() -> None:
    folded, like = conv_then_linear(norm=False), conv_then_linear(norm=True)
    weights = Network(folded).state_dict()
    with pytest.raises(InputError, match="no images"):
        restore_batch_norm(folded, weights, like, [])
    with pytest.raises(InputError, match="no images"):
        measure_batch_norm(folded, weights, iter(()))


@torch.no_grad()
def test_measured_statistics_are_those_of_the_batches() -> None:
    network = network_of("mobilenet_v2")
    weights = network.state_dict()
    before = {key: tensor.clone() for key, tensor in weights.items()}
    x = torch.randn(6, 3, 32, 32)
    measured = measure_batch_norm(network.arch, weights, [x, x])
    assert all(torch.equal(weights[key], before[key]) for key in before)
    y = torch.nn.functional.conv2d(x, weights["stem.conv.weight"], padding=1)
    torch.testing.assert_close(measured["stem.norm.running_mean"], y.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(measured["stem.norm.running_var"], y.var(dim=(0, 2, 3)))
    changed = {key for key in before if not torch.equal(measured[key], before[key])}
    assert {key.rpartition(".")[2] for key in changed} == {
        *("running_mean", "running_var", "num_batches_tracked")
    }
