"""What operators can say and no layer here does: an `InputError` that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobilette.errors import InputError
from mobilette.formats.tflite.file import read_tflite

pytest.importorskip("ai_edge_litert")

from tests.formats.tflite_models import SAME, VALID, Model

MAP = (1, 4, 4, 3)


def _unknown(model: Model) -> None:
    model.op("TANH", [0], MAP)


def _custom(model: Model) -> None:
    model.op("CUSTOM", [0], MAP)
    model.model.operatorCodes[0].customCode = b"Mine\n"


def _dilated(model: Model) -> None:
    model.conv(0, model.noise(5, 3, 3, 3), model.noise(5), (1, 4, 4, 5), dilationHFactor=2)


def _multiplied(model: Model) -> None:
    model.conv(0, model.noise(1, 3, 3, 6), model.noise(6), (1, 4, 4, 6), depthwise=True)


def _oblong(model: Model) -> None:
    model.conv(0, model.noise(5, 3, 1, 3), model.noise(5), (1, 4, 4, 5))


def _fused(model: Model) -> None:
    model.conv(0, model.noise(5, 3, 3, 3), model.noise(5), (1, 4, 4, 5), activation=2)


def _groups(model: Model) -> None:
    model.conv(0, model.noise(5, 3, 3, 2), model.noise(5), (1, 4, 4, 5))


def _no_constant(model: Model) -> None:
    model.conv(0, 0, model.noise(5), (1, 4, 4, 5))


def _bias(model: Model) -> None:
    model.conv(0, model.noise(5, 3, 3, 3), model.noise(6), (1, 4, 4, 5))


def _edge_average(model: Model) -> None:
    model.op(
        "AVERAGE_POOL_2D", [0], MAP, options="Pool2DOptions", padding=SAME,
        strideW=1, strideH=1, filterWidth=3, filterHeight=3,
    )  # fmt: skip


def _oblong_stride(model: Model) -> None:
    model.op(
        "MAX_POOL_2D", [0], MAP, options="Pool2DOptions", padding=VALID,
        strideW=1, strideH=2, filterWidth=3, filterHeight=3,
    )  # fmt: skip


def _channel_mean(model: Model) -> None:
    model.op("MEAN", [0, model.constant([3], "int32")], (1, 4, 4), options="ReducerOptions")


def _channel_pad(model: Model) -> None:
    amounts = model.constant([[0, 0], [1, 1], [1, 1], [0, 1]], "int32")
    model.op("PAD", [0, amounts], (1, 6, 6, 4), options="PadOptions")


def _other_axis(model: Model) -> None:
    model.op("CONCATENATION", [0, 0], (1, 8, 4, 3), options="ConcatenationOptions", axis=1)


def _reshape(model: Model) -> None:
    model.op("RESHAPE", [0], (1, 2, 8, 3), options="ReshapeOptions", newShape=[1, 2, 8, 3])


def _beta(model: Model) -> None:
    model.op("SOFTMAX", [0], MAP, options="SoftmaxOptions", beta=2.0)


def _early_softmax(model: Model) -> None:
    last = model.op("SOFTMAX", [0], MAP, options="SoftmaxOptions", beta=1.0)
    model.op("RELU", [last], MAP)


def _late_constant(model: Model) -> None:
    last = model.op("RELU", [0], MAP)
    model.simple("MUL", [last, model.constant(0.3)], MAP)


def _half_of_hard_sigmoid(model: Model) -> None:
    last = model.op("RELU", [0], MAP)
    last = model.simple("ADD", [last, model.constant(3.0)], MAP)
    model.simple("ADD", [last, last], MAP)


def _product(model: Model) -> None:
    last = model.op("RELU", [0], MAP)
    model.simple("MUL", [last, last], MAP)


def _two_scalings(model: Model) -> None:
    half = model.simple("MUL", [0, model.constant(0.5)], MAP)
    model.simple("ADD", [half, 0], MAP)


def _negative_factor(model: Model) -> None:
    model.simple("MUL", [0, model.constant(-1.0)], MAP)


def _no_classifier(model: Model) -> None:
    model.op("RELU", [0], MAP)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (_unknown, r"operator 0 \(TANH\) is not supported; supported are CONV_2D, "),
        (_custom, r"operator 0 \(CUSTOM 'Mine\?'\) is not supported"),
        (_dilated, "dilation"),
        (_multiplied, "only depth multiplier 1"),
        (_oblong, "square kernels"),
        (_fused, "fused activation 2"),
        (_groups, "do not fit 3 channels"),
        (_no_constant, "its weights are not constants"),
        (_bias, r"a bias of shape \(6,\) for 5 channels"),
        (_edge_average, "over the edge of the map"),
        (_oblong_stride, "strides 2 and 1"),
        (_channel_mean, r"operator 0 \(MEAN\): a mean over axes \[3\]"),
        (_channel_pad, "pads batch or channels"),
        (_other_axis, "concatenation of the channels"),
        (_reshape, r"its output is \(1, 2, 8, 3\)"),
        (_beta, "beta 2.0; only 1 is supported"),
        (_early_softmax, r"operator 1 \(RELU\): it reads softmax\(x\)"),
        (_late_constant, "multiplying by 0.3"),
        (_half_of_hard_sigmoid, r"it reads x \+ 3"),
        (_product, "product of two maps"),
        (_two_scalings, "two different scalings"),
        (_negative_factor, "a factor that is not above 0"),
        (_no_classifier, r"a classifier's is \(1, classes\)"),
    ],
)
def test_what_a_graph_cannot_say_is_refused(tmp_path: Path, build: object, message: str) -> None:
    model = Model(*MAP)
    assert callable(build)
    build(model)
    with pytest.raises(InputError, match=message):
        read_tflite(model.write(tmp_path / "model.tflite"))


def test_a_bias_in_another_scale_is_refused(tmp_path: Path) -> None:
    model = Model(1, 1, 1, 3, kind="int8", scale=[0.5])
    weight = model.constant([[1, 2, 3]] * 2, "int8", scale=[0.25])
    bias = model.constant([1, 2], "int32", scale=[0.5])
    model.op(
        "FULLY_CONNECTED", [0, weight, bias], (1, 2), kind="int8", scale=[1.0],
        options="FullyConnectedOptions",
    )  # fmt: skip
    with pytest.raises(InputError, match="is not input scale times weight scale"):
        read_tflite(model.write(tmp_path / "model.tflite"))
