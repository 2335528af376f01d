"""Networks with one thing changed: refused, or loaded so that they answer as the file does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import (
    INPUT,
    ActivationLayer,
    AdaptivePoolLayer,
    AddLayer,
    AnyLayer,
    ConcatLayer,
    ConvLayer,
    FlattenLayer,
    LinearLayer,
    NormLayer,
    PoolLayer,
    ScaleLayer,
)
from mobilette.arch.rows import Activation, PoolLinear
from mobilette.arch.scale import Settings
from mobilette.errors import InputError
from mobilette.formats.file_builder import Builder
from mobilette.formats.file_layers import NO_PADS, NORM, FileNetwork, Pads, Weights
from mobilette.formats.matching import match
from mobilette.nn.network import build_empty
from tests.formats.execution import execute

# name: width, resolution, form
NETWORKS = {
    "mobilenet_v1": (0.25, 64, "full"),
    "mobilenet_v2": (0.35, 65, "full"),
    "mobilenet_v3_small": (0.35, 64, "full"),
    "resnet8": (1.0, 32, None),
    "resnet18": (0.125, 65, "full"),
    "squeezenet1_0": (0.25, 67, "full"),
    "squeezenet1_1": (0.25, 63, "full"),
    "vgg11": (0.0625, 224, "full"),
}
# What may be said of one layer instead of what is so
Changes = dict[str, Any]


@cache
def arch_of(name: str) -> Arch:
    width_mult, resolution, form = NETWORKS[name]
    given = Settings(
        width_mult=width_mult,
        resolution=resolution,
        form=form,  # type: ignore[arg-type]
        num_classes=5,
    )
    return get_arch(name, given)


def network_of(arch: Arch, changed: str = "", **changes: Any) -> FileNetwork:
    """Return ``arch`` as a file has it, with random weights.

    One layer, ``changed``, may have other values (of the `Builder`'s arguments), be left out
    (``gone``), or have another layer behind it (``then``).
    """
    random = np.random.default_rng(0)
    built = Builder(arch.shape)
    at = {INPUT: INPUT}
    for layer in layers(arch):
        given = changes if layer.name == changed else {}
        inputs = given.get("inputs", layer.inputs)
        sources = tuple(at[name] for name in inputs)
        grid = isinstance(layer, AdaptivePoolLayer) and layer.shape[1] > 1
        if isinstance(layer, FlattenLayer) or grid or given.get("gone"):
            at[layer.name] = sources[0]
        else:
            at[layer.name] = add(built, layer, sources, arch.norm_epsilon, random, given)
        if "then" in given:
            at[layer.name] = given["then"](built, at[layer.name])
    return FileNetwork(
        where="some.file",
        layers=tuple(built.layers.values()),
        output=at[layers(arch)[-1].name],
        shape=built.shape,
    )


def add(
    built: Builder,
    layer: AnyLayer,
    sources: tuple[str, ...],
    epsilon: float,
    random: np.random.Generator,
    given: Changes,
) -> str:
    channels, (source, *_) = layer.shape[0], sources

    def noise(*shape: int, mean: float = 0.0, deviation: float = 0.3) -> Weights:
        return random.normal(mean, deviation, shape).astype(np.float32)

    match layer:
        case ConvLayer():
            each, kernel = layer.in_channels // layer.groups, given.get("kernel", layer.kernel)
            shape = (given.get("channels", channels), each, kernel, kernel)
            bias = noise(channels) if given.get("bias", layer.bias) else None
            pads: Pads = ((kernel - 1) // 2,) * 4
            return built.conv(
                layer.name,
                source,
                noise(*shape, deviation=(2 / (each * kernel**2)) ** 0.5),
                bias,
                stride=given.get("stride", layer.stride),
                groups=layer.groups,
                same=given.get("same", layer.padding == "tf_same"),
                before=given.get("before", pads if layer.padding == "symmetric" else NO_PADS),
            )
        case LinearLayer():
            weight = noise(channels, layer.in_features, deviation=layer.in_features**-0.5)
            return built.linear(layer.name, source, weight, noise(channels))
        case NormLayer():
            arrays = {name: noise(channels, mean=float("mean" not in name)) for name in NORM}
            arrays["running_var"] = np.abs(arrays["running_var"])
            return built.norm(layer.name, source, arrays, given.get("epsilon", epsilon))
        case ActivationLayer():
            return built.activation(layer.name, source, given.get("function", layer.function))
        case PoolLayer():
            return built.pool(
                layer.name,
                source,
                given.get("function", layer.function),
                kernel=given.get("kernel", layer.kernel),
                stride=given.get("stride", layer.stride),
                before=given.get("before", (layer.padding,) * 4),
            )
        case AdaptivePoolLayer():
            return built.average(layer.name, source)
        case AddLayer():
            return built.join(layer.name, sources, "add")
        case ConcatLayer():
            return built.join(layer.name, sources, "concat")
        case ScaleLayer():
            return built.join(layer.name, sources, "scale")
        case _:
            raise AssertionError(layer)


def check(network: FileNetwork, arch: Arch) -> str:
    """Return why the network was refused; else it is loaded, and answers as itself."""
    try:
        found, weights, _ = match(network, arch)
    except InputError as error:
        return str(error)
    loaded = build_empty(found)
    loaded.load_state_dict(weights, assign=True)
    x = np.random.default_rng(1).normal(0, 1, (2, *network.shape)).astype(np.float32)
    expected = execute(network, x)
    with torch.no_grad():
        logits = loaded.eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(logits, expected, atol=2e-4 * float(np.abs(expected).max()), rtol=0)
    return ""


def refused(name: str, changed: str, **changes: Any) -> str:
    """Return why the changed network was refused, by the `Builder` or in the comparison."""
    try:
        network = network_of(arch_of(name), changed, **changes)
    except InputError as error:
        return str(error)
    return check(network, arch_of(name))


@pytest.mark.parametrize("name", NETWORKS)
def test_unchanged_networks_are_loaded(name: str) -> None:
    assert check(network_of(arch_of(name)), arch_of(name)) == ""


def norm(built: Builder, source: str) -> str:
    ones = np.ones(built.shape_of(source)[0], np.float32)
    return built.norm("more", source, dict.fromkeys(NORM, ones), 1e-5)


def act(function: Activation) -> Callable[[Builder, str], str]:
    return lambda built, source: built.activation("more", source, function)


# name: network, layer, what is changed, a part of the message ("": it is loaded)
EDITS: dict[str, tuple[str, str, Changes, str]] = {
    "hidden layers of two activations": (
        "vgg11",
        "head.hidden.1.activation",
        {"function": "relu6"},
        "different activations",
    ),
    "a norm behind the classifier": (
        "resnet8",
        "head.classifier",
        {"then": norm},
        "'more' is a batch norm, but head.classifier can have none",
    ),
    "an activation behind the classifier": (
        "resnet8",
        "head.classifier",
        {"then": act("hard_sigmoid")},
        "'head.classifier' ends in activation 'hard_sigmoid', but head.classifier in 'none'",
    ),
    "two norms": ("resnet8", "stem.norm", {"then": norm}, "a second batch norm"),
    "an activation that is missing": (
        "resnet8",
        "stem.activation",
        {"gone": True},
        "'stem.norm' ends in activation 'none', but stem in 'relu'",
    ),
    "an activation before a sum": (
        "resnet8",
        "rows.0.conv2.norm",
        {"then": act("relu")},
        "ends in activation 'relu', but rows.0.conv2 in 'none'",
    ),
    "another activation of a sum": ("resnet8", "rows.0.activation", {"function": "relu6"}, ""),
    "an activation of a pool": (
        "resnet8",
        "head.pool",
        {"then": act("relu")},
        "ends in activation",
    ),
    "a norm that is missing": ("resnet8", "rows.1.conv1.norm", {"gone": True}, ""),
    "a shortcut from elsewhere": (
        "resnet8",
        "rows.0.add",
        {"inputs": ("rows.0.conv2.norm", "rows.0.conv1.activation")},
        "should be (rows.0.add)",
    ),
    "a sum the other way round": (
        "resnet8",
        "rows.1.add",
        {"inputs": ("rows.1.shortcut.conv", "rows.1.conv2.norm")},
        "",
    ),
    "another epsilon of one batch norm": ("resnet8", "rows.1.conv1.norm", {"epsilon": 0.5}, ""),
    "a concatenation the other way round": (
        "squeezenet1_0",
        "rows.1.concat",
        {"inputs": ("rows.1.expand3x3.activation", "rows.1.expand1x1.activation")},
        "should be (rows.1.concat)",
    ),
    "gate and map exchanged": (
        "mobilenet_v3_small",
        "rows.0.squeeze_excite.scale",
        {"inputs": ("rows.0.squeeze_excite.expand.activation", "rows.0.depthwise.activation")},
        "",
    ),
    "another activation of a gate": (
        "mobilenet_v3_small",
        "rows.0.squeeze_excite.expand.activation",
        {"function": "relu"},
        "",
    ),
    "a depthwise layer with a multiplier": (
        "mobilenet_v1",
        "rows.0.depthwise.conv",
        {"channels": 16},
        "8 channels behind a layer of 16",
    ),
    "another kernel": (
        "mobilenet_v1",
        "rows.0.pointwise.conv",
        {"kernel": 3, "before": (1, 1, 1, 1)},
        "'rows.0.pointwise.conv' is full 3x3, stride 1, 8 to 16 channels, but rows.0.pointwise.conv"
        " is full 1x1",
    ),
    "another stride": (
        "mobilenet_v1",
        "rows.2.depthwise.conv",
        {"stride": 2},
        "is depthwise 3x3, stride 2, 32 to 32 channels, but rows.2.depthwise.conv is depthwise 3x3,"
        " stride 1",
    ),
    "a stem that is not padded": ("mobilenet_v1", "stem.conv", {"before": NO_PADS}, ""),
    "uneven padding": (
        "mobilenet_v1",
        "stem.conv",
        {"before": (1, 0, 1, 0)},
        "only padding that is equal on all sides or TensorFlow's SAME is supported",
    ),
    "TensorFlow's padding": (
        "mobilenet_v1",
        "stem.conv",
        {"before": NO_PADS, "same": True},
        "",
    ),
    "TensorFlow's padding, spelled out": (
        "mobilenet_v1",
        "stem.conv",
        {"before": (0, 1, 0, 1)},
        "",
    ),
    "zeros before a max pool of negative values": (
        "resnet18",
        "stem.activation",
        {"function": "hard_swish"},
        "zeros",
    ),
    "the average instead of the largest": (
        "resnet18",
        "rows.0",
        {"function": "average"},
        "'rows.0' is the average of 3x3, stride 2, padding 1, but rows.0 is the max of 3x3",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_edited_networks(name: str) -> None:
    of, layer, changes, message = EDITS[name]
    refusal = refused(of, layer, **changes)
    assert (message in refusal) if message else not refusal, refusal


def test_hidden_layers_of_another_activation() -> None:
    arch = arch_of("vgg11")
    assert isinstance(arch.head, PoolLinear)
    other = replace(arch, head=replace(arch.head, activation="relu6"))
    assert check(network_of(other), arch) == ""


def test_pools_round_as_in_the_file() -> None:
    """SqueezeNet counts a last window that hangs over; at 65 pixels there is one."""
    arch = get_arch("squeezenet1_1", Settings(width_mult=0.25, resolution=65, form="full"))
    assert check(network_of(arch), arch) == ""


def test_a_last_window_over_the_edge_as_tensorflow_pads() -> None:
    arch = get_arch("squeezenet1_1", Settings(width_mult=0.25, resolution=65, form="full"))
    assert [layer.ceil_mode for layer in layers(arch) if isinstance(layer, PoolLayer)] == [True] * 3
    built = Builder((8, 8, 8))
    pooled = built.pool("pool", INPUT, "max", kernel=3, stride=2, same=True)
    layer = built.layers[pooled].layer
    assert isinstance(layer, PoolLayer)
    assert (layer.padding, layer.ceil_mode, layer.shape) == (0, True, (8, 4, 4))


def changes_of(layer: AnyLayer) -> st.SearchStrategy[Changes]:
    """Return one arbitrary change of a layer."""
    functions: st.SearchStrategy[Activation] = st.sampled_from(
        ["relu", "relu6", "hard_swish", "hard_sigmoid"]
    )
    around = st.one_of(
        st.sampled_from([NO_PADS, (1, 1, 1, 1), (0, 1, 0, 1), (2, 2, 2, 2)]),
        st.tuples(*[st.integers(0, 2)] * 4),
    )
    common: Changes = {"then": st.one_of(functions.map(act), st.just(norm)), "gone": st.just(True)}
    match layer:
        case ConvLayer():
            common |= {
                "stride": st.integers(1, 3),
                "before": around,
                "same": st.booleans(),
                "bias": st.booleans(),
                "kernel": st.sampled_from([1, 3, 5]),
            }
        case NormLayer():
            common |= {"epsilon": st.floats(1e-4, 1.0)}
        case ActivationLayer():
            common |= {"function": functions}
        case PoolLayer():
            common |= {
                "kernel": st.integers(1, 3),
                "stride": st.integers(1, 2),
                "before": around,
                "function": st.sampled_from(["max", "average"]),
            }
        case AddLayer() | ConcatLayer() | ScaleLayer():
            common |= {"inputs": st.sampled_from([layer.inputs[::-1], layer.inputs[:1] * 2])}
    return st.sampled_from(sorted(common)).flatmap(
        lambda key: common[key].map(lambda value: {key: value})
    )


@settings(max_examples=150)
@given(st.sampled_from([*NETWORKS]), st.data())
def test_no_change_is_loaded_as_something_else(name: str, data: st.DataObject) -> None:
    layer = data.draw(st.sampled_from(layers(arch_of(name))))
    refused(name, layer.name, **data.draw(changes_of(layer)))
