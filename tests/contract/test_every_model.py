"""What every network of the catalogue keeps, each promise over each of them.

All of them are narrow and small; one of each family is also tried as published: width 1, 224x224.
"""

from __future__ import annotations

import io
import json
from dataclasses import replace
from itertools import groupby

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import FAMILIES, get_arch, list_models
from mobilette.arch.layers import layers
from mobilette.arch.primitives import (
    ActivationLayer,
    AdaptivePoolLayer,
    AddLayer,
    ConcatLayer,
    ConvLayer,
    FlattenLayer,
    LinearLayer,
    NormLayer,
    PoolLayer,
    ScaleLayer,
    ShuffleLayer,
    SliceLayer,
    SubsampleLayer,
)
from mobilette.arch.scale import Settings
from mobilette.compression.folding import fold
from mobilette.counting.cost import cost
from mobilette.data.normalise import Normalise
from mobilette.data.preprocess import preset
from mobilette.exporters.onnx import convert
from mobilette.nn.layers import (
    Add,
    Concat,
    GlobalAveragePool,
    Scale,
    ShuffleChannels,
    Slice,
    SubsampleAndPad,
)
from mobilette.nn.network import Network, build_empty
from mobilette.records import parse
from tests.batch_norm import give_statistics
from tests.models import model_of

CLASSES = 7
SMALL = Settings(width_mult=0.25, resolution=32, num_classes=CLASSES)
FULL = Settings(width_mult=0.25, resolution=64, num_classes=CLASSES, form="full")
PUBLISHED = Settings()

MODULES: dict[type, tuple[type[nn.Module], ...]] = {
    ConvLayer: (nn.Conv2d,),
    LinearLayer: (nn.Linear,),
    NormLayer: (nn.BatchNorm2d,),
    ActivationLayer: (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid),
    PoolLayer: (nn.MaxPool2d, nn.AvgPool2d),
    AdaptivePoolLayer: (GlobalAveragePool, nn.AdaptiveAvgPool2d),
    FlattenLayer: (nn.Flatten,),
    AddLayer: (Add,),
    ConcatLayer: (Concat,),
    SliceLayer: (Slice,),
    ShuffleLayer: (ShuffleChannels,),
    SubsampleLayer: (SubsampleAndPad,),
    ScaleLayer: (Scale,),
}

SMALL_FORM = [pytest.param(name, SMALL, id=f"{name}-small") for name in list_models()]
FULL_FORM = [pytest.param(name, FULL, id=f"{name}-full") for name in list_models()]
ONE_OF_EACH_FAMILY = [
    pytest.param(next(iter(variants)), PUBLISHED, id=f"{next(iter(variants))}-published")
    for variants in FAMILIES.values()
]
OBLONG = [
    pytest.param(next(iter(variants)), settings, id=f"{next(iter(variants))}-{form}-oblong")
    for variants in FAMILIES.values()
    for form, settings in (
        ("small", replace(SMALL, resolution=(24, 41))),
        ("full", replace(FULL, resolution=(96, 67))),
    )
]
EVERYTHING = SMALL_FORM + FULL_FORM + ONE_OF_EACH_FAMILY + OBLONG


def image(arch: Arch, count: int = 2) -> Tensor:
    """Return normalised images, the same at every call."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, *arch.shape, generator=generator)


def build(arch: Arch) -> Network:
    """Return the network in inference, its batch norms with statistics that suit it."""
    torch.manual_seed(0)
    network = Network(arch).eval()
    give_statistics(network, image(arch, 4))
    return network


@pytest.mark.parametrize(("name", "settings"), EVERYTHING)
@torch.no_grad()
def test_images_in_logits_out(name: str, settings: Settings) -> None:
    arch = get_arch(name, settings)
    logits = build(arch)(image(arch))
    assert logits.shape == (2, settings.num_classes)
    assert torch.isfinite(logits).all()
    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize(("name", "settings"), EVERYTHING)
def test_an_arch_survives_json(name: str, settings: Settings) -> None:
    arch = get_arch(name, settings)
    read = parse(Arch, json.loads(json.dumps(arch.to_json())), where="arch.json")
    assert read == arch
    assert read.hash == arch.hash


@pytest.mark.parametrize(("name", "settings"), EVERYTHING)
def test_modules_are_the_layers_in_order_with_their_shapes(name: str, settings: Settings) -> None:
    arch = get_arch(name, settings)
    network = build_empty(arch).eval()
    seen: list[tuple[str, tuple[int, ...]]] = []

    def watch(layer: str) -> None:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            seen.append((layer, tuple(output.shape[1:])))

        network.get_submodule(layer).register_forward_hook(hook)

    graph = layers(arch)
    for layer in graph:
        assert isinstance(network.get_submodule(layer.name), MODULES[type(layer)]), layer
        watch(layer.name)
    network(image(arch).to("meta"))
    assert seen == [(layer.name, layer.shape) for layer in graph]
    # No weights outside the graph.
    assert {key.rpartition(".")[0] for key in network.state_dict()} <= {x.name for x in graph}


@pytest.mark.parametrize(("name", "settings"), EVERYTHING)
def test_what_is_counted_is_what_is_built_and_what_runs(name: str, settings: Settings) -> None:
    arch = get_arch(name, settings)
    network = build_empty(arch).eval()
    counted = cost(arch)
    assert counted.params == sum(tensor.numel() for tensor in network.parameters())
    with FlopCounterMode(display=False) as traced:
        network(image(arch, 1).to("meta"))
    # PyTorch counts a multiplication and an addition of convolutions and matrix products each.
    assert traced.get_total_flops() == 2 * counted.madds


@pytest.mark.parametrize(("name", "settings"), SMALL_FORM + ONE_OF_EACH_FAMILY)
def test_gradient_reaches_every_parameter(name: str, settings: Settings) -> None:
    torch.manual_seed(0)
    arch = get_arch(name, settings)
    network = Network(arch).train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.eval()  # in a narrow network it can hide everything that is left
    for layer, tensor in network.named_parameters():
        if layer.endswith("squeeze_excite.reduce.conv.bias"):
            nn.init.ones_(tensor)  # of two units with a ReLU both may be dead
    network(image(arch, 4)).square().sum().backward()
    normed = {layer.inputs[0] for layer in layers(arch) if isinstance(layer, NormLayer)}
    for parameter, tensor in network.named_parameters():
        assert tensor.grad is not None, parameter
        assert torch.isfinite(tensor.grad).all(), parameter
        owner, _, kind = parameter.rpartition(".")
        if not (kind == "bias" and owner in normed):  # the norm takes such a bias out again
            assert tensor.grad.abs().max() > 0, parameter


@pytest.mark.parametrize(("name", "settings"), SMALL_FORM + ONE_OF_EACH_FAMILY)
@torch.no_grad()
def test_a_saved_state_dict_gives_the_same_network(name: str, settings: Settings) -> None:
    arch = get_arch(name, settings)
    network = build(arch)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    read = build_empty(arch).eval()
    read.load_state_dict(torch.load(file, weights_only=True), assign=True)
    x = image(arch, 1)
    assert torch.equal(read(x), network(x))


# The full form has every kind of layer that the small one has; deep ResNets repeat the blocks of
# shallower ones.
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        pytest.param(name, FULL, id=f"{name}-full")
        for name in list_models()
        if not name.startswith(("resnet101", "resnet110", "resnet152", "resnet56"))
    ]
    + ONE_OF_EACH_FAMILY,
)
@torch.no_grad()
def test_the_exported_network_answers_as_eager_does(name: str, settings: Settings) -> None:
    arch = get_arch(name, settings)
    network, normalise = build(arch), Normalise(preset("torch"))
    folded = fold(model_of(network)).network
    shape = (3, *arch.shape)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    model = convert(folded, normalise)
    onnx.checker.check_model(model, full_check=True)
    expected = [layer.name for layer in layers(folded.arch)]
    nodes = [node.name for node in model.graph.node]
    assert len(set(nodes)) == len(nodes)
    assert nodes[:2] == ["normalise.cast", "normalise.conv"]
    made_from = [_layer_of(node, expected) for node in nodes[2:]]
    assert [layer for layer, _ in groupby(made_from)] == expected
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    for count in (1, 3):
        answer = session.run(["logits"], {"pixels": pixels[:count]})[0]
        eager = network(normalise(torch.from_numpy(pixels[:count]))).numpy()
        np.testing.assert_allclose(answer, eager, atol=1e-4 * np.abs(eager).max())


def _layer_of(node: str, names: list[str]) -> str:
    """Return which of ``names`` a node was made from: its own name, or the beginning of it."""
    return next(name for name in names if node == name or node.startswith(f"{name}."))
