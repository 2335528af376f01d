"""Ranges, layers that stay in float and another network, as each engine's int8 writer obeys them.

Layers in float must answer exactly; what is exact only if they are is the proof that they are.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from mobilette.artifact.directory import Artifact
from mobilette.artifact.tflite import check_tflite
from mobilette.compression.float_layers import check_float_layers, in_float, weight_layers
from mobilette.compression.folding import fold
from mobilette.compression.ranges import Ranges, histogram_range
from mobilette.engines.load import load
from mobilette.errors import InputError
from mobilette.exporters.export import export_calibrated
from mobilette.exporters.onnx_int8 import activation_ranges
from mobilette.exporters.target import Calibration, Quantisation
from mobilette.run.directory import Run
from mobilette.verification.gate import compare
from tests.exporters.networks import run_printed
from tests.exporters.small_runs import small_calibration, small_run

PACKAGES = {"litert": "litert_torch", "openvino": "nncf", "executorch": "executorch"}
IN_INT8 = "rows.1.expand.conv"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return small_run(tmp_path_factory.mktemp("runs") / "run", "mobilenet_v2", (1, 2))


def test_what_follows_float_layers_without_weights_is_in_float_too(run: Run) -> None:
    assert in_float(run.arch, {"rows.1.expand.conv"}) == {
        "rows.1.expand.conv",
        "rows.1.expand.norm",
        "rows.1.expand.activation",
    }
    every = frozenset(weight_layers(run.arch))
    rest = in_float(run.arch, every - {"rows.1.project.conv"})
    assert "rows.1.add" not in rest
    assert {"normalise", "head.classifier"} < rest


def test_an_unknown_layer_is_refused_with_the_nearest(run: Run, tmp_path: Path) -> None:
    wrong = Quantisation(float_layers=frozenset({"rows.1.expnad.conv"}))
    with pytest.raises(InputError, match=r"'rows\.1\.expnad\.conv' .* 'rows\.1\.expand\.conv'\?"):
        export_calibrated(
            run, precision="int8", calibration=small_calibration(), quantisation=wrong
        )
    with pytest.raises(InputError, match="not a convolution or linear layer"):
        check_float_layers(run.arch, {"rows.1.expand.activation"})


def test_a_microcontroller_has_no_floats(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("tflite_micro")
    floats = Quantisation(float_layers=frozenset({"stem.conv"}))
    with pytest.raises(InputError, match=r"integers only, so stem\.conv cannot stay in float"):
        export_calibrated(
            run, to="mcu", calibration=small_calibration(), quantisation=floats, out=tmp_path
        )
    assert not (tmp_path / "mcu-int8").exists()


def histogram(values: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    counts, edges = np.histogram(values, 2048)
    return counts.astype(float), edges


def rounding(values: NDArray[np.float64], low: float, high: float) -> float:
    """Return the mean square that 8 bits lose, with zero a step of its own."""
    low, high = min(low, 0), max(high, 0)
    step = (high - low) / 255
    zero = round(-low / step)
    steps = np.clip(np.round(values / step) + zero, 0, 255)
    return float(np.square((steps - zero) * step - values).mean())


@pytest.mark.parametrize("shape", ["normal", "positive", "outlier"])
def test_ranges_are_what_their_names_say(shape: str) -> None:
    values = np.random.default_rng(0).standard_t(4, 100_000)
    if shape == "positive":
        values = np.maximum(values, 0)
    if shape == "outlier":
        values[0] = 1000.0
    found = {each: histogram_range(each, *histogram(values)) for each in ("percentile", "mse")}
    width = np.ptp(values) / 2048
    exact = np.quantile(values, [0.00005, 0.99995])
    assert np.abs(np.array(found["percentile"]) - exact).max() <= 2 * width
    assert histogram_range("minmax", *histogram(values)) == (values.min(), values.max())
    lost = rounding(values, *found["mse"])
    grid = [
        rounding(values, values.min() * low, values.max() * high)
        for low in np.linspace(0.05, 1, 20)
        for high in np.linspace(0.05, 1, 20)
    ]
    assert lost < 1.05 * min(grid)


def test_a_tensor_of_one_value_has_a_range() -> None:
    for ranges in ("percentile", "mse"):
        low, high = histogram_range(ranges, np.ones(8), np.zeros(9))
        assert (low, high) == (0, 0)


def shifted(run: Run, by: float) -> Quantisation:
    """Return the run's network with ``by`` added to its answers, and all but one layer in float."""
    model = fold(run.model)
    bias = model.weights["head.classifier.bias"] + by
    model = replace(model, weights={**model.weights, "head.classifier.bias": bias})
    floats = frozenset(weight_layers(run.arch)) - {IN_INT8}
    return Quantisation(ranges="percentile", float_layers=floats, model=model)


@pytest.fixture(scope="module")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what makes the artifact of a target once: one layer in int8, another network."""
    folder = tmp_path_factory.mktemp("exports")
    made: dict[str, Artifact] = {}

    def make(target: str) -> Artifact:
        if target in PACKAGES:
            pytest.importorskip(PACKAGES[target])
        if target not in made:
            made[target] = export_calibrated(
                run,
                to=target,
                precision="int8",
                calibration=small_calibration(),
                quantisation=shifted(run, 1.0),
                out=folder,
            )
        return made[target]

    return make


@pytest.mark.parametrize("target", ["onnx", "openvino", "litert", "executorch"])
def test_the_network_given_answers_nearly_exactly_with_one_layer_in_int8(
    target: str, exported: Any
) -> None:
    """All layers in int8 give 40 dB; none gives 120."""
    artifact = exported(target)
    assert len(artifact.contract.float_layers) == len(weight_layers(artifact.contract.arch)) - 1
    logits = load(artifact.path).logits(artifact.golden.inputs)
    noise = compare(logits, artifact.golden.logits + np.float32(1))
    assert 50 < noise.signal_to_noise_db < 110


def test_onnx_rounds_the_weights_of_that_layer_alone(exported: Any) -> None:
    model = onnx.load(exported("onnx").path / "model.onnx")
    weights = {
        node.name: node.input[1] for node in model.graph.node if node.op_type in ("Conv", "Gemm")
    }
    rounded = {name for name, weight in weights.items() if "DequantizeLinear" in weight}
    assert rounded == {IN_INT8}


def test_openvino_rounds_the_weights_of_that_layer_alone(exported: Any) -> None:
    openvino = pytest.importorskip("openvino")
    model = openvino.Core().read_model(exported("openvino").path / "model.xml")
    kinds = {}
    for operation in model.get_ordered_ops():
        if operation.get_type_name() in ("Convolution", "GroupConvolution", "MatMul"):
            source = operation.input_value(1).get_node()
            while source.get_type_name() in ("Convert", "Multiply", "Subtract", "Reshape"):
                source = source.input_value(0).get_node()
            name = operation.get_friendly_name().partition("/")[0]
            kinds[name] = source.output(0).get_element_type().to_string()
    assert {name for name, kind in kinds.items() if kind != "f32"} == {IN_INT8}


def test_litert_rounds_the_weights_of_that_layer_alone_and_answers_in_float(exported: Any) -> None:
    artifact = exported("litert")
    found = check_tflite(artifact.read_model())
    kinds = {
        found.tensors[operator.inputs[1]].name: found.tensors[operator.inputs[1]].kind
        for operator in found.operators
        if operator.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    }
    assert {name for name, kind in kinds.items() if kind != "float32"} == {"rows.1.expand.weight"}
    ends = [found.tensors[index].kind for index in (*found.inputs, *found.outputs)]
    assert ends == ["uint8", "float32"]
    assert "output `logits`, float32 (1, 5)" in (artifact.path / "README.md").read_text()
    label, logits = run_printed(artifact.path)
    prediction = load(artifact.path).predict([artifact.path / "image.jpg"])[0]
    assert (label, str(logits.dtype)) == (prediction.label, "float32")


def with_an_outlier() -> Calibration:
    """Return grey images, and one white point in the first."""
    pixels = np.full((16, 3, 32, 32), 120, np.uint8)
    pixels += np.random.default_rng(0).integers(0, 16, pixels.shape, dtype=np.uint8)
    pixels[0, :, 16, 16] = 255
    return Calibration(pixels=pixels, source="grey")


def test_onnx_ranges_are_those_of_the_rule(run: Run) -> None:
    from mobilette.exporters.onnx import convert
    from mobilette.exporters.onnx_int8 import absorb_normalisation, quantize

    pixels = with_an_outlier().pixels
    quantisable = absorb_normalisation(fold(run.model))
    model = convert(quantisable.network, quantisable.normalise)
    shares = []
    kinds: tuple[Ranges, ...] = ("percentile", "mse")
    for ranges in kinds:
        found = activation_ranges(model, pixels, ranges)
        all_values = activation_ranges(model, pixels, "minmax")
        quantised = quantize(model, pixels, quantisable, ranges=ranges)
        tensors = {each.name: each for each in quantised.graph.initializer}
        for name, (low, high) in found.items():
            scale = tensors.get(f"{name}_scale")
            if scale is None or name.startswith("normalise"):
                continue
            expected = (max(high, 0) - min(low, 0)) / 255
            assert onnx.numpy_helper.to_array(scale) == pytest.approx(expected, rel=1e-3)
            smallest, largest = all_values[name]
            shares.append(expected * 255 / (max(largest, 0) - min(smallest, 0)))
    assert len(shares) > 10
    assert max(shares) < 1.001
    assert min(shares) < 0.9


def test_pytorchs_quantiser_takes_the_rule() -> None:
    """For LiteRT and ExecuTorch."""
    pytest.importorskip("torchao")
    from mobilette.exporters.program import activation_observer

    values = np.random.default_rng(0).normal(size=(4, 50_000)).astype(np.float32)
    values[2, 0] = 50.0
    ranges: tuple[Ranges, ...] = ("percentile", "mse")
    steps = {}
    for each in ranges:
        observer = activation_observer(each)(dtype=torch.int8, quant_min=-128, quant_max=127)
        for value in values:
            observer(torch.from_numpy(value))
        steps[each] = float(observer.calculate_qparams()[0])
    low, high = np.quantile(values, [0.00005, 0.99995])
    assert steps["percentile"] * 255 == pytest.approx(high - low, rel=0.05)
    found = histogram_range("mse", *histogram(values.ravel()))
    assert steps["mse"] * 255 == pytest.approx(found[1] - found[0], rel=0.05)
    assert steps["percentile"] < steps["mse"]
