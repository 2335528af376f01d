"""int8 products of ONNX Runtime are exact on any processor."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mobilette.engines.onnxruntime import open_session

CHANNELS = 64


def _quantised_convolution() -> bytes:
    """Return a 1x1 convolution of uint8 by int8, all weights as large as they can be."""
    constants = {
        "x_scale": np.float32(1 / 255),
        "x_zero": np.uint8(0),
        "weight": np.full((8, CHANNELS, 1, 1), 127, np.int8),
        "weight_scale": np.float32(1 / 127),
        "weight_zero": np.int8(0),
        "y_scale": np.float32(CHANNELS / 250),
        "y_zero": np.uint8(0),
    }
    node = helper.make_node("QLinearConv", ["x", *constants], ["y"], kernel_shape=[1, 1])
    graph = helper.make_graph(
        [node],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, CHANNELS, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [1, 8, 4, 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=onnx.IR_VERSION_2023_5_5
    )
    return bytes(model.SerializeToString())


def test_sums_do_not_overflow() -> None:
    """Two products of 255 by 127 exceed 16 bits, in which AVX2 adds them unless told otherwise."""
    session = open_session(_quantised_convolution())
    (answer,) = session.run(None, {"x": np.full((1, CHANNELS, 4, 4), 255, np.uint8)})
    np.testing.assert_array_equal(answer, 250)
