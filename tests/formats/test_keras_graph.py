"""Topologies of our own making, in the spelling of Keras 2: read as meant, or refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mobilette.arch.primitives import PoolLayer
from mobilette.errors import InputError
from mobilette.formats.file_layers import FileNetwork
from mobilette.formats.keras.graph import keras_graph
from mobilette.formats.keras.weights import LayerWeights

ONES = np.ones(4, np.float32)


def layer(kind: str, name: str, *reads: str, **config: Any) -> dict[str, Any]:
    return {
        "class_name": kind,
        "config": {"name": name, **config},
        "inbound_nodes": [[[source, 0, 0, {}] for source in reads]] if reads else [],
    }


IMAGE = layer("InputLayer", "image", batch_input_shape=[None, 8, 8, 3])
CONV = layer("Conv2D", "conv", "image", kernel_size=[1, 1])
END = layer("GlobalAveragePooling2D", "end", "conv")


def read(*layers: Any, **more: Any) -> FileNetwork:
    """Read a model of ``layers``, of which the last is the output."""
    topology = {"config": {"layers": layers, "output_layers": [["end", 0, 0]], **more}}
    weights = [
        LayerWeights(
            name="conv", parameters={"kernel": np.ones((1, 1, 3, 4), np.float32), "bias": ONES}
        ),
        LayerWeights(
            name="norm",
            parameters=dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), ONES),
        ),
    ]
    # As a file would have it: infinities and long numbers are valid to Python's reader.
    return keras_graph(json.loads(json.dumps(topology)), weights, where="x.h5", version="2.8.0")


def middle(kind: str, **config: Any) -> tuple[dict[str, Any], ...]:
    """Return a network with one layer before the end."""
    end = layer("GlobalAveragePooling2D", "end", "norm")
    return IMAGE, CONV, layer(kind, "norm", "conv", **config), end


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"y": value}
    return value


def test_a_plain_network() -> None:
    graph = read(IMAGE, CONV, END)
    assert [layer.name for layer in graph.layers] == ["conv", "end"]
    assert graph.shape == (3, 8, 8)


def test_options_of_a_batch_norm_and_a_pool() -> None:
    norm = read(*middle("BatchNormalization", epsilon=0.25, axis=[3])).layers[1]
    assert norm.epsilon == 0.25
    pool = read(*middle("MaxPooling2D", pool_size=[3, 3], strides=None)).layers[1].layer
    assert isinstance(pool, PoolLayer)
    assert (pool.kernel, pool.stride) == (3, 3)


def test_rescaling_of_grey_images() -> None:
    image = layer("InputLayer", "image", batch_input_shape=[None, 8, 8, 1])
    rescaling = layer("Rescaling", "rescaling", "image", scale=1 / 127.5, offset=-1)
    end = layer("GlobalAveragePooling2D", "end", "rescaling")
    preprocess = read(image, rescaling, end).preprocess
    assert preprocess is not None
    assert preprocess.colour == "grey"
    assert preprocess.mean == pytest.approx((127.5,))
    assert preprocess.std == pytest.approx((127.5,))


def operation(name: str, function: str, source: str, constant: float) -> dict[str, Any]:
    """Return an operation as TensorFlow 2.4 to 2.15 record it."""
    entry = layer("TFOpLambda", name, function=function)
    return entry | {"inbound_nodes": [[source, 0, 0, {"y": constant, "name": None}]]}


def older(name: str, op: str, source: str, constant: Any) -> dict[str, Any]:
    """Return an operation as TensorFlow 2.0 to 2.3 record it."""
    return layer("TensorFlowOpLayer", name, source, node_def={"op": op}, constants={"1": constant})


@pytest.mark.parametrize(
    "steps",
    [
        (
            operation("half", "math.truediv", "image", 127.5),
            operation("one", "math.subtract", "half", 1.0),
        ),
        (older("half", "RealDiv", "image", 127.5), older("one", "Sub", "half", 1.0)),
        (older("half", "Mul", "image", [1 / 127.5] * 3), older("one", "AddV2", "half", [-1] * 3)),
        (layer("Rescaling", "one", "image", scale=[1 / 127.5] * 3, offset=[-1] * 3),),
        (
            layer("Normalization", "norm_", "image", mean=[127.5], variance=[[127.5**2]]),
            layer("RandomFlip", "one", "norm_"),
        ),
    ],
)
def test_what_keras_2_does_to_pixels(steps: tuple[dict[str, Any], ...]) -> None:
    conv = layer("Conv2D", "conv", "one", kernel_size=[1, 1])
    preprocess = read(IMAGE, *steps, conv, END).preprocess
    assert preprocess is not None
    assert preprocess.mean == pytest.approx((127.5,) * 3)
    assert preprocess.std == pytest.approx((127.5,) * 3)


def test_layers_without_effect_before_the_network_leave_the_scaling_open() -> None:
    flip = layer("RandomFlip", "flip", "image")
    conv = layer("Conv2D", "conv", "flip", kernel_size=[1, 1])
    assert read(IMAGE, flip, conv, END).preprocess is None


def test_resized_and_cropped() -> None:
    image = layer("InputLayer", "image", batch_input_shape=[None, None, None, 3])
    steps = (
        layer("Resizing", "resizing", "image", height=10, width=10, crop_to_aspect_ratio=True),
        layer("CenterCrop", "crop", "resizing", height=8, width=8),
        layer("Rescaling", "rescaling", "crop", scale=1 / 255),
        layer("Conv2D", "conv", "rescaling", kernel_size=[1, 1]),
    )
    graph = read(image, *steps, END)
    assert graph.shape == (3, 8, 8)
    assert graph.preprocess is not None
    assert (graph.preprocess.resize, graph.preprocess.crop_fraction) == ("crop", 0.8)


@pytest.mark.parametrize(
    ("last", "ending"),
    [
        (layer("Activation", "end", "mean", activation="sigmoid"), "sigmoid"),
        (layer("Softmax", "end", "mean"), "softmax"),
        (layer("Activation", "end", "mean", activation="log_softmax"), "softmax"),
        (layer("TFOpLambda", "end", "mean", function="nn.softmax"), "softmax"),
        (layer("Flatten", "end", "mean"), "logits"),
    ],
)
def test_the_ending_is_left_out_and_told(last: dict[str, Any], ending: str) -> None:
    graph = read(IMAGE, CONV, layer("GlobalAveragePooling2D", "mean", "conv"), last)
    assert (graph.output, graph.ending) == ("mean", ending)


@pytest.mark.parametrize("last", ["sixth first", "divided"])
def test_hard_swish_in_several_operations(last: str) -> None:
    """As in TensorFlow Lite, whatever the order of the factors."""
    three = operation("three", "__operators__.add", "conv", 3.0)
    steps = [three, layer("ReLU", "six", "three", max_value=6)]
    if last == "divided":
        steps.append(layer("Multiply", "times", "conv", "six"))
        steps.append(operation("swish", "math.truediv", "times", 6.0))
    else:
        steps.append(operation("sixth", "math.multiply", "six", 1 / 6))
        steps.append(layer("Multiply", "swish", "conv", "sixth"))
    graph = read(IMAGE, CONV, *steps, layer("GlobalAveragePooling2D", "end", "swish"))
    assert [file.name for file in graph.layers] == ["conv", "conv/hard_swish", "end"]


def test_a_constant_in_the_network_is_refused() -> None:
    half = operation("half", "math.multiply", "conv", 0.5)
    with pytest.raises(InputError, match=r"^x\.h5: layer 'half': multiplying by 0\.5 is supported"):
        read(IMAGE, CONV, half, layer("GlobalAveragePooling2D", "end", "half"))


REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "stride 0": (
        (IMAGE, layer("Conv2D", "conv", "image", kernel_size=1, strides=0), END),
        "'conv' has strides 0",
    ),
    "oblong strides": (middle("MaxPooling2D", pool_size=2, strides=[2, 1]), "strides 2 and 1"),
    "pool of stride 0": (middle("MaxPooling2D", pool_size=2, strides=[0, 0]), "strides 0 and 0"),
    "pool of 0 pixels": (middle("AveragePooling2D", pool_size=0), "pool_size 0 and 0"),
    "stride of text": (middle("MaxPooling2D", pool_size="2"), "pool_size '2'"),
    "stride of infinity": (middle("MaxPooling2D", pool_size=2, strides=float("inf")), "strides"),
    "kernel size that is none": (
        (IMAGE, layer("Conv2D", "conv", "image", kernel_size=None), END),
        "kernel_size None",
    ),
    "dilation": (
        (IMAGE, layer("Conv2D", "conv", "image", kernel_size=1, dilation_rate=2), END),
        "dilation",
    ),
    "negative padding": (middle("ZeroPadding2D", padding=[[0, 1], [-1, 2]]), "pads"),
    "infinite padding": (middle("ZeroPadding2D", padding=[[0, 1], [0, float("inf")]]), "damaged"),
    "norm over rows": (middle("BatchNormalization", axis=[1]), "does not normalise channels"),
    "epsilon not a number": (middle("BatchNormalization", epsilon=float("nan")), "epsilon nan"),
    "negative epsilon": (middle("BatchNormalization", epsilon=-1), "epsilon -1"),
    "epsilon of 400 digits": (middle("BatchNormalization", epsilon=10**400), "damaged"),
    "unknown activation": (middle("Activation", activation="tanh"), "activation 'tanh'"),
    "activation that is an object": (
        middle("Activation", activation={"class_name": "os.system"}),
        "unsupported activation",
    ),
    "two inputs": (
        (IMAGE, layer("InputLayer", "other", batch_input_shape=[None, 8, 8, 3]), CONV, END),
        "several inputs",
    ),
    "two layers of one name": ((IMAGE, CONV, CONV, END), "two layers are called 'conv'"),
    "name of an activation": (
        (
            IMAGE,
            layer("Conv2D", "conv", "image", kernel_size=1, activation="relu"),
            layer("MaxPooling2D", "conv/relu", "conv", pool_size=2),
            layer("GlobalAveragePooling2D", "end", "conv/relu"),
        ),
        "two layers are called 'conv/relu'",
    ),
    "rescaled for some": (
        (
            IMAGE,
            CONV,
            layer("Rescaling", "rescaling", "image", scale=2.0),
            layer("Add", "norm", "conv", "rescaling"),
            layer("GlobalAveragePooling2D", "end", "norm"),
        ),
        "in two different scalings",
    ),
    "rescaled by nothing": (
        (
            IMAGE,
            layer("Rescaling", "rescaling", "image", scale=0),
            layer("GlobalAveragePooling2D", "end", "rescaling"),
        ),
        "a factor that is not above 0",
    ),
    "rescaled by a hair": (
        (
            IMAGE,
            layer("Rescaling", "rescaling", "image", scale=1e-320),
            layer("GlobalAveragePooling2D", "end", "rescaling"),
        ),
        "not finite",
    ),
    "cropped from any size": (
        (
            layer("InputLayer", "image", batch_input_shape=[None, None, None, 3]),
            layer("CenterCrop", "crop", "image", height=8, width=8),
            layer("Conv2D", "conv", "crop", kernel_size=[1, 1]),
            END,
        ),
        "'crop' crops 8x8 pixels of anyxany",
    ),
    "resized to a strip": (
        (
            IMAGE,
            layer("Resizing", "strip", "image", height=8, width=16),
            layer("Conv2D", "conv", "strip", kernel_size=[1, 1]),
            END,
        ),
        "'strip' makes images of 16x8",
    ),
    "a norm behind a pool and no linear layer": (
        (
            IMAGE,
            CONV,
            layer("GlobalAveragePooling2D", "mean", "conv"),
            layer("BatchNormalization", "norm", "mean"),
            layer("Dropout", "end", "norm"),
        ),
        "is a batch norm at the end",
    ),
    "a layer of somebody's own": (middle("Custom>Blur"), "'norm' is a Custom>Blur, which is"),
    "a billion channels": (
        (layer("InputLayer", "image", batch_input_shape=[None, 8, 8, 10**9]), CONV, END),
        "8x8 pixels and 1000000000 channels",
    ),
    "infinitely large": (
        (layer("InputLayer", "image", batch_input_shape=[None, float("inf"), 8, 3]), CONV, END),
        "damaged",
    ),
    "layers that are no objects": ((IMAGE, [], 3, END), "damaged"),
    "deep arguments": (
        (
            IMAGE,
            CONV,
            layer("GlobalAveragePooling2D", "end", "conv")
            | {"inbound_nodes": [[["conv", 0, 0, nested(700)]]]},
        ),
        "damaged",
    ),
    "many layers": ((IMAGE, *[CONV] * 10_001), "more than 10,000 layers"),
    "as in training": (
        (
            IMAGE,
            CONV,
            layer("GlobalAveragePooling2D", "end", "conv")
            | {"inbound_nodes": [[["conv", 0, 0, {"training": True}]]]},
        ),
        "'end' is called with training=True",
    ),
    "softmax within": (
        (
            IMAGE,
            CONV,
            layer("Softmax", "norm", "conv"),
            layer("GlobalAveragePooling2D", "end", "norm"),
        ),
        r"layer .end.: it reads softmax\(x\)",
    ),
    "no output": ((IMAGE, CONV), "damaged"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    layers, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as refusal:
        read(*layers)
    assert str(refusal.value).startswith("x.h5: ")
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("topology", [None, 5, "text", [], {}, {"config": []}, {"config": {}}])
def test_no_topology_at_all(topology: Any) -> None:
    with pytest.raises(InputError, match=r"^x\.h5: "):
        keras_graph(topology, [], where="x.h5", version="2")
