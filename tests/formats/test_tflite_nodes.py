"""Files built for one thing each: the graph is what is meant, its logits the interpreter's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilette.arch.primitives import ConvLayer
from mobilette.formats.file_layers import FileNetwork
from mobilette.formats.tflite.file import read_tflite

pytest.importorskip("ai_edge_litert")

from tests.formats.execution import execute, interpret, summary
from tests.formats.tflite_models import NONE, RELU, RELU6, SAME, VALID, Model


def agree(model: Model, path: Path) -> FileNetwork:
    """Read a float model; its logits are the interpreter's on noise."""
    graph = read_tflite(model.write(path / "model.tflite"))
    channels, height, width = graph.shape
    x = np.random.default_rng(1).normal(0, 2, (3, height, width, channels)).astype(np.float32)
    prepared = x
    if graph.preprocess is not None:
        mean, std = (np.array(v, np.float32) for v in (graph.preprocess.mean, graph.preprocess.std))
        prepared = (x - mean) / std
    logits = execute(graph, prepared.transpose(0, 3, 1, 2))
    expected = interpret(path / "model.tflite", x)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-4)
    return graph


def convolutions(network: FileNetwork) -> list[ConvLayer]:
    return [file.layer for file in network.layers if isinstance(file.layer, ConvLayer)]


def test_maps_that_are_not_square(tmp_path: Path) -> None:
    """Padding is TensorFlow's in each direction: one zero below, two on the sides."""
    model = Model(1, 10, 7, 3)
    made = model.conv(0, model.noise(4, 3, 3, 3), model.noise(4), (1, 5, 4, 4), stride=2)
    amounts = model.constant([[0, 0], [1, 1], [1, 1], [0, 0]], "int32")
    padded = model.op("PAD", [made, amounts], (1, 7, 6, 4), options="PadOptions")
    made = model.conv(padded, model.noise(6, 3, 3, 4), model.noise(6), (1, 5, 4, 6), padding=VALID)
    whole: dict[str, Any] = {"filterHeight": 5, "filterWidth": 4, "strideH": 1, "strideW": 1}
    made = model.op(
        "AVERAGE_POOL_2D", [made], (1, 1, 1, 6), options="Pool2DOptions", padding=VALID, **whole
    )
    model.conv(made, model.noise(5, 1, 1, 6), model.noise(5), (1, 1, 1, 5))
    graph = agree(model, tmp_path)
    assert graph.shape == (3, 10, 7)
    assert [conv.padding for conv in convolutions(graph)] == ["tf_same", "symmetric", "tf_same"]


def test_pads_pools_and_concatenation(tmp_path: Path) -> None:
    model = Model(1, 11, 11, 3)
    amounts = model.constant([[0, 0], [1, 1], [1, 1], [0, 0]], "int32")
    padded = model.op("PAD", [0, amounts], (1, 13, 13, 3), options="PadOptions")
    first = model.conv(
        padded,
        model.noise(4, 3, 3, 3),
        model.noise(4),
        (1, 6, 6, 4),
        stride=2,
        padding=VALID,
        activation=RELU6,
    )
    pool: dict[str, Any] = {"options": "Pool2DOptions", "strideW": 2, "strideH": 2}
    pooled = model.op(
        "MAX_POOL_2D", [first], (1, 3, 3, 4), padding=SAME, filterWidth=3, filterHeight=3, **pool
    )
    second = model.op(
        "AVERAGE_POOL_2D",
        [first],
        (1, 3, 3, 4),
        padding=VALID,
        filterWidth=2,
        filterHeight=2,
        fusedActivationFunction=RELU,
        **pool,
    )
    more = model.conv(second, model.noise(6, 1, 1, 4), model.noise(6), (1, 3, 3, 6), padding=SAME)
    model.noise(7)  # that nothing reads
    joined = model.op(
        "CONCATENATION", [second, more], (1, 3, 3, 10), options="ConcatenationOptions", axis=-1
    )
    mean = model.op(
        "MEAN", [joined, model.constant([2, 1], "int32")], (1, 10), options="ReducerOptions"
    )
    beyond = model.op(
        "MEAN", [pooled, model.constant([-3, -2], "int32")], (1, 4), options="ReducerOptions"
    )
    both = model.op(
        "CONCATENATION", [mean, beyond], (1, 14), options="ConcatenationOptions", axis=1
    )
    model.op(
        "FULLY_CONNECTED",
        [both, model.noise(5, 14), model.noise(5)],
        (1, 5),
        options="FullyConnectedOptions",
    )
    graph = agree(model, tmp_path)
    assert summary(graph) == {
        "Conv": 2,
        "Linear": 1,
        "relu6": 1,
        "max": 1,
        "average": 1,
        "AdaptivePool": 2,
        "Concat": 2,
        "relu": 1,
    }
    assert [layer.padding for layer in convolutions(graph)] == ["symmetric", "tf_same"]
    assert len(graph.unused) == 1
    assert len(graph.tensors) == 3 * 2 + 1


def test_flattening_keeps_the_files_order(tmp_path: Path) -> None:
    model = Model(1, 4, 4, 3)
    # groups: each filter sees one channel
    grouped = model.conv(0, model.noise(6, 3, 3, 1), model.noise(6), (1, 2, 2, 6), stride=2)
    depthwise = model.conv(
        grouped, model.noise(1, 3, 3, 6), model.noise(6), (1, 2, 2, 6), depthwise=True
    )
    relu = model.op("RELU", [depthwise], (1, 2, 2, 6))
    flat = model.op(
        "RESHAPE", [relu, model.constant([-1, 24], "int32")], (1, 24), options="ReshapeOptions"
    )
    model.op(
        "FULLY_CONNECTED", [flat, model.noise(5, 24), -1], (1, 5), options="FullyConnectedOptions"
    )
    graph = agree(model, tmp_path)
    assert [layer.groups for layer in convolutions(graph)] == [3, 6]
    assert graph.layers[-1].tensors["weight"].shape == (5, 24)


@pytest.mark.parametrize("spelling", ["divided", "sixth first", "by hard-sigmoid", "operator"])
def test_spellings_of_hard_swish(tmp_path: Path, spelling: str) -> None:
    model = Model(1, 4, 4, 3)
    map_ = (1, 4, 4, 5)
    x = model.conv(0, model.noise(5, 1, 1, 3), model.noise(5), map_)
    three, six = model.constant(3.0), model.constant(6.0)
    sixth = model.constant(1 / 6)
    if spelling == "operator":
        model.op("HARD_SWISH", [x], map_)
    else:
        plus = model.simple("ADD", [three, x], map_)
        gate = model.op("RELU6", [plus], map_)
        if spelling == "divided":
            model.simple("DIV", [model.simple("MUL", [x, gate], map_), six], map_)
        elif spelling == "sixth first":
            model.simple("MUL", [model.simple("MUL", [x, sixth], map_), gate], map_)
        else:
            model.simple("MUL", [model.simple("MUL", [gate, sixth], map_), x], map_)
    last = model.graph.outputs[0]
    axes = model.constant([1, 2], "int32")
    model.op("MEAN", [last, axes], (1, 1, 1, 5), options="ReducerOptions", keepDims=True)
    assert summary(agree(model, tmp_path)) == {"Conv": 1, "hard_swish": 1, "AdaptivePool": 1}


def hard_sigmoid(*, absorbed: bool, bias: bool) -> Model:
    model = Model(1, 4, 4, 3)
    axes = model.constant([1, 2], "int32")
    mean = model.op("MEAN", [0, axes], (1, 1, 1, 3), options="ReducerOptions", keepDims=True)
    last = model.conv(
        mean,
        model.noise(3, 1, 1, 3),
        model.noise(3) if bias else -1,
        (1, 1, 1, 3),
        activation=RELU6 if absorbed else NONE,
    )
    if not absorbed:
        three = model.constant(3.0)
        last = model.simple("ADD", [last, three], (1, 1, 1, 3), fusedActivationFunction=RELU6)
    factor = model.simple("MUL", [last, model.constant([1 / 6])], (1, 1, 1, 3))
    scaled = model.simple("MUL", [0, factor], (1, 4, 4, 3))
    model.op("MEAN", [scaled, axes], (1, 1, 1, 3), options="ReducerOptions", keepDims=True)
    return model


@pytest.mark.parametrize("absorbed", [True, False])
def test_spellings_of_hard_sigmoid(tmp_path: Path, absorbed: bool) -> None:
    graph = agree(hard_sigmoid(absorbed=absorbed, bias=True), tmp_path)
    assert summary(graph) == {"Conv": 1, "hard_sigmoid": 1, "Scale": 1, "AdaptivePool": 2}
    assert graph.unused == ()


def test_the_three_of_hard_sigmoid_without_a_bias_to_hide_in(tmp_path: Path) -> None:
    # The interpreter wants a bias; the format does not.
    model = hard_sigmoid(absorbed=True, bias=False)
    graph = read_tflite(model.write(tmp_path / "model.tflite"))
    (convolution,) = (file for file in graph.layers if isinstance(file.layer, ConvLayer))
    assert convolution.tensors["bias"].tolist() == [-3.0] * 3


def test_scaling_of_the_input_becomes_preprocess(tmp_path: Path) -> None:
    model = Model(1, 4, 4, 3)
    map_ = (1, 4, 4, 3)
    x = model.simple("SUB", [0, model.constant([1.0, 2.0, 3.0])], map_)
    x = model.simple("DIV", [x, model.constant([[[[4.0, 2.0, 0.5]]]])], map_)
    x = model.simple("ADD", [model.constant(0.25), x], map_)
    x = model.simple("MUL", [x, model.constant(2.0)], map_)
    model.conv(x, model.noise(5, 4, 4, 3), model.noise(5), (1, 1, 1, 5), padding=VALID)
    graph = agree(model, tmp_path)
    assert graph.preprocess is not None
    assert graph.preprocess.mean == (0.0, 1.5, 2.875)
    assert graph.preprocess.std == (2.0, 1.0, 0.25)
    assert summary(graph) == {"Conv": 1}


def test_half_precision_weights(tmp_path: Path) -> None:
    model = Model(1, 4, 4, 1)
    half = model.random.normal(0, 1, (5, 4, 4, 1)).astype(np.float16)
    weight = model.op("DEQUANTIZE", [model.constant(half, "float16")], half.shape)
    model.conv(0, weight, model.noise(5), (1, 1, 1, 5), padding=VALID)
    model.op(
        "SQUEEZE", [model.graph.outputs[0]], (1, 5), options="SqueezeOptions", squeezeDims=[1, 2]
    )
    graph = agree(model, tmp_path)
    assert graph.shape == (1, 4, 4)
    assert set(graph.tensors) == {"t1", "t3"}


def test_hidden_activation_needs_a_range_that_starts_at_zero(tmp_path: Path) -> None:
    def graph_of(highest: float, zero_point: int, *, more: bool = True) -> FileNetwork:
        model = Model(1, 4, 4, 3, kind="uint8", scale=[1 / 127.5], zero_point=[127])
        last = 0
        for shape in [(1, 4, 4, 3)] * (1 + more):
            weight = model.constant(
                model.random.integers(0, 255, (3, 1, 1, 3)), "uint8", scale=[0.5], zero_point=[99]
            )
            scale = 1 / 127.5 if last == 0 else highest / 255
            bias = model.constant([1, 2, 3], "int32", scale=[scale * 0.5])
            last = model.conv(
                last,
                weight,
                bias,
                shape,
                kind="uint8",
                scale=[highest / 255],
                zero_point=[zero_point],
            )
        mean = model.constant([1, 2], "int32")
        model.op(
            "MEAN",
            [last, mean],
            (1, 3),
            kind="uint8",
            scale=[highest / 255],
            zero_point=[zero_point],
            options="ReducerOptions",
        )
        return read_tflite(model.write(tmp_path / "model.tflite"))

    assert summary(graph_of(10, 0)) == {"Conv": 2, "relu": 2, "AdaptivePool": 1}
    assert summary(graph_of(6.1, 0)) == {"Conv": 2, "relu6": 2, "AdaptivePool": 1}
    assert summary(graph_of(6.2, 0)) == {"Conv": 2, "relu": 2, "AdaptivePool": 1}
    assert summary(graph_of(10, 1)) == {"Conv": 2, "AdaptivePool": 1}
    weight = graph_of(10, 0).layers[0].tensors["weight"]
    expected = np.random.default_rng(0).integers(0, 255, (3, 1, 1, 3)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(weight, (expected - 99.0) * 0.5)


def test_the_range_of_the_logits_is_no_activation(tmp_path: Path) -> None:
    model = Model(1, 4, 4, 1, kind="int8", scale=[1.0], zero_point=[-128])
    weight = model.constant(np.ones((5, 4, 4, 1)), "int8", scale=[0.5] * 5, zero_point=[0] * 5)
    out: dict[str, Any] = {"kind": "int8", "scale": [0.1], "zero_point": [-128]}
    last = model.conv(0, weight, -1, (1, 1, 1, 5), padding=VALID, **out)
    model.op("RESHAPE", [last], (1, 5), options="ReshapeOptions", newShape=[1, 5], **out)
    graph = read_tflite(model.write(tmp_path / "model.tflite"))
    assert summary(graph) == {"Conv": 1}
    assert graph.preprocess is not None
    assert graph.preprocess.mean == (0,)
    assert graph.preprocess.colour == "grey"
