from __future__ import annotations

import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mobilette.errors import InputError
from mobilette.weights.graph import ActivationNode, ConvNode, Graph, JoinNode, PadNode, PoolNode
from mobilette.weights.tflite import read_tflite

pytest.importorskip("ai_edge_litert")

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from tests.weights.execution import execute
from tests.weights.tflite_models import NONE, RELU, RELU6, SAME, VALID, Model, write

FILES = {
    "mobilenet_v1_0.25_96_vww_mlperf_tiny_float": "vww400",
    "mobilenet_v1_0.25_96_vww_mlperf_tiny_int8": "vww400",
    "mobilenet_v2_0.35_128_flowers_int8": "flowers200",
    "mobilenet_v2_1.0_224_imagenet_int8": "imagenette-small/val",
    "mobilenet_v3_large_minimalistic_224_imagenet_uint8": "imagenette-small/val",
    "mobilenet_v3_small_1.0_224_imagenet_int8weights": "imagenette-small/val",
    "resnet8_cifar10_mlperf_tiny_float": "cifar10-test200",
    "resnet8_cifar10_mlperf_tiny_int8": "cifar10-test200",
}
Pixels = NDArray[np.uint8]


def interpret(path: Path, inputs: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return what TensorFlow Lite's interpreter gives for (batch, height, width, channels)."""
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (source,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    results = []
    for picture in inputs:
        interpreter.set_tensor(source["index"], picture[None].astype(source["dtype"]))
        interpreter.invoke()
        results.append(interpreter.get_tensor(output["index"]).ravel().astype(np.float32))
    return np.stack(results)


def real_pictures(folder: Path, side: int, count: int) -> Pixels:
    paths = sorted(path for path in folder.rglob("*.*") if path.is_file())
    images = [Image.open(path).convert("RGB") for path in paths[:: max(1, len(paths) // count)]]
    resized = [image.resize((side, side), Image.Resampling.BILINEAR) for image in images]
    return np.stack([np.asarray(image) for image in resized])


def prepared(graph: Graph, pixels: Pixels, *, divisor: float = 1) -> NDArray[np.float32]:
    mean = np.float64(graph.preprocess.mean if graph.preprocess else (0, 0, 0))
    std = np.float64(graph.preprocess.std if graph.preprocess else (divisor,) * 3)
    return np.float32((pixels - mean) / std).transpose(0, 3, 1, 2)


def summary(graph: Graph) -> Counter[str]:
    return Counter(
        node.function
        if isinstance(node, ActivationNode | PoolNode | JoinNode)
        else type(node).__name__
        for node in graph.nodes
    )


def test_every_file_is_here(shared: Path) -> None:
    assert {path.stem for path in (shared / "weights").glob("*.tflite")} == set(FILES)


@pytest.mark.parametrize(
    ("name", "divisor"),
    [("mobilenet_v1_0.25_96_vww_mlperf_tiny_float", 255), ("resnet8_cifar10_mlperf_tiny_float", 1)],
)
def test_float_files_give_the_interpreters_logits(shared: Path, name: str, divisor: float) -> None:
    path = shared / "weights" / f"{name}.tflite"
    graph = read_tflite(path)
    assert graph.preprocess is None
    assert graph.unused == ()
    pixels = real_pictures(shared / "data" / FILES[name], graph.shape[1], 20)
    logits = execute(graph, prepared(graph, pixels, divisor=divisor))
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    expected = interpret(path, np.float32(pixels) / np.float32(divisor))
    np.testing.assert_allclose(shifted / shifted.sum(1, keepdims=True), expected, atol=1e-5)
    np.testing.assert_allclose(
        node_logits(path, pixels[:4], divisor), logits[:4], atol=1e-4, rtol=1e-4
    )


def node_logits(path: Path, pixels: Pixels, divisor: float) -> NDArray[np.float32]:
    """Return what the interpreter has before its softmax, the last operator."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*experimental_preserve_all_tensors")
        interpreter = Interpreter(str(path), num_threads=1, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    source, output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    results = []
    for picture in pixels:
        interpreter.set_tensor(source["index"], np.float32(picture[None]) / np.float32(divisor))
        interpreter.invoke()
        # Both files: the softmax's input is the tensor before its output.
        results.append(interpreter.get_tensor(output["index"] - 1).ravel())
    return np.stack(results)


@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith("_float")])
def test_quantised_files_agree_with_the_interpreter(shared: Path, name: str) -> None:
    path = shared / "weights" / f"{name}.tflite"
    graph = read_tflite(path)
    assert graph.preprocess is not None
    side = graph.shape[1]
    pixels = real_pictures(shared / "data" / FILES[name], side, 50 if "v3" in name else 20)
    signed = name.endswith("tiny_int8")  # these two take int8
    expected = interpret(path, pixels.astype(np.int16) - 128 if signed else pixels)
    logits = execute(graph, prepared(graph, pixels))
    # 8-bit activations cost these two more: 85 and 86 of 100 agree.
    least = 0.75 if "mobilenet_v3" in name else 0.9
    assert (logits.argmax(1) == expected.argmax(1)).mean() >= least


def in_float(path: Path, to: Path) -> Path:
    """Write a quantised file as a float one, for an interpreter without 8-bit activations."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    (graph,) = model.subgraphs
    stored = {schema.TensorType.INT8: "i1", schema.TensorType.UINT8: "u1"}
    stored[schema.TensorType.INT32] = "<i4"
    for tensor in graph.tensors:
        quantisation = tensor.quantization
        if tensor.type not in stored or quantisation is None or quantisation.scale is None:
            continue
        data = model.buffers[tensor.buffer].data
        if data is not None:
            shape = [1] * len(tensor.shape)
            shape[quantisation.quantizedDimension] = -1
            values = np.asarray(data).view(stored[tensor.type]).reshape(tensor.shape)
            zero_point = np.asarray(quantisation.zeroPoint).reshape(shape)
            real = np.float32((values - zero_point) * np.asarray(quantisation.scale).reshape(shape))
            model.buffers[tensor.buffer].data = np.frombuffer(real.tobytes(), np.uint8)
        tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None
    for operator in graph.operators:
        # Where the range is all that is left of a ReLU, its name still is the output's.
        if graph.tensors[operator.outputs[0]].name.endswith(b"/Relu"):
            operator.builtinOptions.fusedActivationFunction = RELU
    return write(model, to)


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v1_0.25_96_vww_mlperf_tiny_int8",
        "mobilenet_v3_large_minimalistic_224_imagenet_uint8",
        "mobilenet_v3_small_1.0_224_imagenet_int8weights",
        "resnet8_cifar10_mlperf_tiny_int8",
    ],
)
def test_dequantised_files_give_the_float_interpreters_logits(
    shared: Path, tmp_path: Path, name: str
) -> None:
    path = shared / "weights" / f"{name}.tflite"
    graph = read_tflite(path)
    pixels = real_pictures(shared / "data" / FILES[name], graph.shape[1], 8)
    x = prepared(graph, pixels)
    scaled_inside = name.endswith("weights")
    inputs = np.float32(pixels) if scaled_inside else x.transpose(0, 2, 3, 1)
    expected = interpret(in_float(path, tmp_path / "float.tflite"), inputs)
    logits = np.exp(execute(graph, x))
    np.testing.assert_allclose(logits / logits.sum(1, keepdims=True), expected, atol=1e-4)


def test_the_two_forms_of_one_network_are_one_graph(shared: Path) -> None:
    for name in ("mobilenet_v1_0.25_96_vww_mlperf_tiny", "resnet8_cifar10_mlperf_tiny"):
        exact = read_tflite(shared / "weights" / f"{name}_float.tflite")
        quantised = read_tflite(shared / "weights" / f"{name}_int8.tflite")
        assert [type(node) for node in exact.nodes] == [type(node) for node in quantised.nodes]
        for one, other in zip(exact.nodes, quantised.nodes, strict=True):
            if isinstance(one, ConvNode) and isinstance(other, ConvNode):
                error = np.abs(one.weight - other.weight).max((1, 2, 3), keepdims=True)
                # rounding is at most half a step, and 127 steps reach the largest weight
                assert (error <= 0.51 / 127 * np.abs(one.weight).max()).all()


def test_activations_that_hide_in_ranges_and_factors(shared: Path) -> None:
    weights = shared / "weights"
    large = read_tflite(weights / "mobilenet_v3_large_minimalistic_224_imagenet_uint8.tflite")
    assert summary(large) == {"ConvNode": 48, "relu": 32, "add": 10, "average": 1}
    small = read_tflite(weights / "mobilenet_v3_small_1.0_224_imagenet_int8weights.tflite")
    assert summary(small) == {
        "ConvNode": 54,
        "relu": 5 + 9,
        "hard_swish": 19,
        "hard_sigmoid": 9,
        "scale": 9,
        "average": 10,
        "add": 6,
    }
    assert small.unused == ()
    assert len(small.tensors) == 2 * 54


def test_preprocessing_is_read_from_the_file(shared: Path) -> None:
    weights = shared / "weights"
    expected = {
        "mobilenet_v2_1.0_224_imagenet_int8": (127, 127.5),
        "mobilenet_v3_large_minimalistic_224_imagenet_uint8": (128, 127),
        "mobilenet_v3_small_1.0_224_imagenet_int8weights": (127.5, 127.5),
        "mobilenet_v1_0.25_96_vww_mlperf_tiny_int8": (0, 255),
        "resnet8_cifar10_mlperf_tiny_int8": (0, 1),
    }
    for name, (mean, std) in expected.items():
        preprocess = read_tflite(weights / f"{name}.tflite").preprocess
        assert preprocess is not None
        np.testing.assert_allclose(preprocess.mean, mean, rtol=1e-6)
        np.testing.assert_allclose(preprocess.std, std, rtol=1e-6)


def agree(model: Model, path: Path, *, scale: float = 1) -> Graph:
    """Read a float model; its logits are the interpreter's on noise."""
    graph = read_tflite(model.write(path / "model.tflite"))
    channels, side, _ = graph.shape
    x = np.random.default_rng(1).normal(0, 2, (3, side, side, channels)).astype(np.float32)
    mean = np.float32(graph.preprocess.mean if graph.preprocess else 0)
    std = np.float32(graph.preprocess.std if graph.preprocess else 1)
    logits = execute(graph, np.float32((x - mean) / std).transpose(0, 3, 1, 2))
    expected = interpret(path / "model.tflite", x)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-4)
    return graph


def test_pads_pools_and_concatenation(tmp_path: Path) -> None:
    model = Model(1, 11, 11, 3)
    amounts = model.constant([[0, 0], [0, 1], [2, 1], [0, 0]], "int32")
    padded = model.op("PAD", [0, amounts], (1, 12, 14, 3), options="PadOptions")
    first = model.conv(
        padded,
        model.noise(4, 3, 3, 3),
        model.noise(4),
        (1, 5, 6, 4),
        stride=2,
        padding=VALID,
        activation=RELU6,
    )
    pool = {"options": "Pool2DOptions", "strideW": 2, "strideH": 2}
    pooled = model.op(
        "MAX_POOL_2D", [first], (1, 3, 3, 4), padding=SAME, filterWidth=3, filterHeight=3, **pool
    )
    second = model.op(
        "AVERAGE_POOL_2D",
        [first],
        (1, 2, 3, 4),
        padding=VALID,
        filterWidth=2,
        filterHeight=2,
        fusedActivationFunction=RELU,
        **pool,
    )
    more = model.conv(second, model.noise(6, 1, 1, 4), model.noise(6), (1, 2, 3, 6), padding=SAME)
    model.noise(7)  # that nothing reads
    joined = model.op(
        "CONCATENATION", [second, more], (1, 2, 3, 10), options="ConcatenationOptions", axis=-1
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
        "PadNode": 1,
        "ConvNode": 3,
        "relu6": 1,
        "max": 1,
        "average": 3,
        "concat": 2,
        "relu": 1,
    }
    (pad,) = (node for node in graph.nodes if isinstance(node, PadNode))
    assert pad.padding == (0, 1, 2, 1)
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
    convolutions = [node for node in graph.nodes if isinstance(node, ConvNode)]
    assert [node.groups for node in convolutions] == [3, 6, 1]
    assert convolutions[2].weight.shape == (5, 24, 1, 1)


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
    assert summary(agree(model, tmp_path)) == {"ConvNode": 1, "hard_swish": 1, "average": 1}


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
    assert summary(graph) == {"ConvNode": 1, "hard_sigmoid": 1, "scale": 1, "average": 2}
    assert graph.unused == ()


def test_the_three_of_hard_sigmoid_without_a_bias_to_hide_in(tmp_path: Path) -> None:
    # The interpreter wants a bias; the format does not.
    model = hard_sigmoid(absorbed=True, bias=False)
    graph = read_tflite(model.write(tmp_path / "model.tflite"))
    (convolution,) = (node for node in graph.nodes if isinstance(node, ConvNode))
    assert convolution.bias is not None
    assert convolution.bias.tolist() == [-3.0] * 3


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
    assert summary(graph) == {"ConvNode": 1}


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
    def graph_of(highest: float, zero_point: int, *, more: bool = True) -> Graph:
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

    assert summary(graph_of(10, 0)) == {"ConvNode": 2, "relu": 2, "average": 1}
    assert summary(graph_of(6.1, 0)) == {"ConvNode": 2, "relu6": 2, "average": 1}
    assert summary(graph_of(6.2, 0)) == {"ConvNode": 2, "relu": 2, "average": 1}
    assert summary(graph_of(10, 1)) == {"ConvNode": 2, "average": 1}
    weight = next(node for node in graph_of(10, 0).nodes if isinstance(node, ConvNode)).weight
    expected = np.random.default_rng(0).integers(0, 255, (3, 1, 1, 3)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(weight, (expected - 99.0) * 0.5)


def test_the_range_of_the_logits_is_no_activation(tmp_path: Path) -> None:
    model = Model(1, 4, 4, 1, kind="int8", scale=[1.0], zero_point=[-128])
    weight = model.constant(np.ones((5, 4, 4, 1)), "int8", scale=[0.5] * 5, zero_point=[0] * 5)
    out = {"kind": "int8", "scale": [0.1], "zero_point": [-128]}
    last = model.conv(0, weight, -1, (1, 1, 1, 5), padding=VALID, **out)
    model.op("RESHAPE", [last], (1, 5), options="ReshapeOptions", newShape=[1, 5], **out)
    graph = read_tflite(model.write(tmp_path / "model.tflite"))
    assert summary(graph) == {"ConvNode": 1}
    assert graph.preprocess is not None
    assert graph.preprocess.mean == (0,)
    assert graph.preprocess.colour == "grey"


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Model(1, 4, 4, 3).write(tmp_path / "model.tflite")
    monkeypatch.delitem(sys.modules, "mobilette.weights.flatbuffer", raising=False)
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(InputError, match=r"pip install 'mobilette\[weights\]'"):
        read_tflite(path)
