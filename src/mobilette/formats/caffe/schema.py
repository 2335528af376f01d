"""Caffe's protobuf messages, as far as classifiers need them; other fields are ignored.

Source: caffe.proto of BVLC/caffe. Pads, kernels and strides are ``repeated`` in pools too, as in
Intel's fork, which reads single values alike.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

_WINDOW = {
    "num_output": (1, "uint32"),
    "bias_term": (2, "bool", "true"),
    "pad": (3, "uint32*"),
    "kernel_size": (4, "uint32*"),
    "group": (5, "uint32", "1"),
    "stride": (6, "uint32*"),
    "pad_h": (9, "uint32"),
    "pad_w": (10, "uint32"),
    "kernel_h": (11, "uint32"),
    "kernel_w": (12, "uint32"),
    "stride_h": (13, "uint32"),
    "stride_w": (14, "uint32"),
    "axis": (16, "int32", "1"),
    "dilation": (18, "uint32*"),
}
_POOLING = {
    "pool": (1, "PoolMethod"),
    "kernel_size": (2, "uint32*"),
    "stride": (3, "uint32*"),
    "pad": (4, "uint32*"),
    "kernel_h": (5, "uint32"),
    "kernel_w": (6, "uint32"),
    "stride_h": (7, "uint32"),
    "stride_w": (8, "uint32"),
    "pad_h": (9, "uint32"),
    "pad_w": (10, "uint32"),
    "global_pooling": (12, "bool"),
    "round_mode": (13, "RoundMode"),
}
_LAYER = {
    "name": (1, "string"),
    "type": (2, "string"),
    "bottom": (3, "string*"),
    "top": (4, "string*"),
    "blobs": (7, "BlobProto*"),
    "include": (8, "NetStateRule*"),
    "exclude": (9, "NetStateRule*"),
    "transform_param": (100, "TransformationParameter"),
    "concat_param": (104, "ConcatParameter"),
    "convolution_param": (106, "ConvolutionParameter"),
    "eltwise_param": (110, "EltwiseParameter"),
    "inner_product_param": (117, "InnerProductParameter"),
    "pooling_param": (121, "PoolingParameter"),
    "relu_param": (123, "ReLUParameter"),
    "softmax_param": (125, "SoftmaxParameter"),
    "reshape_param": (133, "ReshapeParameter"),
    "flatten_param": (135, "FlattenParameter"),
    "batch_norm_param": (139, "BatchNormParameter"),
    "scale_param": (142, "ScaleParameter"),
    "input_param": (143, "InputParameter"),
    "clip_param": (148, "ClipParameter"),
}
_LAYER_BEFORE_2015 = {
    "bottom": (2, "string*"),
    "top": (3, "string*"),
    "name": (4, "string"),
    "type": (5, "LayerType"),
    "blobs": (6, "BlobProto*"),
    "concat_param": (9, "ConcatParameter"),
    "convolution_param": (10, "ConvolutionParameter"),
    "inner_product_param": (17, "InnerProductParameter"),
    "pooling_param": (19, "PoolingParameter"),
    "eltwise_param": (24, "EltwiseParameter"),
    "relu_param": (30, "ReLUParameter"),
    "include": (32, "NetStateRule*"),
    "exclude": (33, "NetStateRule*"),
    "transform_param": (36, "TransformationParameter"),
    "softmax_param": (39, "SoftmaxParameter"),
}
_MESSAGES: dict[str, dict[str, tuple[Any, ...]]] = {
    "BlobShape": {"dim": (1, "int64*")},
    "BlobProto": {
        "num": (1, "int32"),
        "channels": (2, "int32"),
        "height": (3, "int32"),
        "width": (4, "int32"),
        "data": (5, "float*"),
        "shape": (7, "BlobShape"),
    },
    "NetStateRule": {"phase": (1, "Phase")},
    "TransformationParameter": {
        "scale": (1, "float", "1"),
        "mean_file": (4, "string"),
        "mean_value": (5, "float*"),
    },
    "ConcatParameter": {"concat_dim": (1, "uint32", "1"), "axis": (2, "int32", "1")},
    "ConvolutionParameter": _WINDOW,
    "EltwiseParameter": {"operation": (1, "EltwiseOp", "SUM"), "coeff": (2, "float*")},
    "InnerProductParameter": {
        "num_output": (1, "uint32"),
        "bias_term": (2, "bool", "true"),
        "axis": (5, "int32", "1"),
        "transpose": (6, "bool"),
    },
    "PoolingParameter": _POOLING,
    "ReLUParameter": {"negative_slope": (1, "float")},
    "SoftmaxParameter": {"axis": (2, "int32", "1")},
    "ReshapeParameter": {
        "shape": (1, "BlobShape"),
        "axis": (2, "int32"),
        "num_axes": (3, "int32", "-1"),
    },
    "FlattenParameter": {"axis": (1, "int32", "1"), "end_axis": (2, "int32", "-1")},
    "BatchNormParameter": {"eps": (3, "float", "1e-5")},
    "ScaleParameter": {
        "axis": (1, "int32", "1"),
        "num_axes": (2, "int32", "1"),
        "bias_term": (4, "bool"),
    },
    "InputParameter": {"shape": (1, "BlobShape*")},
    "ClipParameter": {"min": (1, "float"), "max": (2, "float")},
    "LayerParameter": _LAYER,
    "V1LayerParameter": _LAYER_BEFORE_2015,
    "NetParameter": {
        "name": (1, "string"),
        "layers": (2, "V1LayerParameter*"),
        "input": (3, "string*"),
        "input_dim": (4, "int32*"),
        "input_shape": (8, "BlobShape*"),
        "layer": (100, "LayerParameter*"),
    },
}
_ENUMS = {
    "Phase": {"TRAIN": 0, "TEST": 1},
    "PoolMethod": {"MAX": 0, "AVE": 1, "STOCHASTIC": 2},
    "RoundMode": {"CEIL": 0, "FLOOR": 1},
    "EltwiseOp": {"PROD": 0, "SUM": 1, "MAX": 2},
    "LayerType": {
        "NONE": 0,
        "ACCURACY": 1,
        "CONCAT": 3,
        "CONVOLUTION": 4,
        "DATA": 5,
        "DROPOUT": 6,
        "FLATTEN": 8,
        "IMAGE_DATA": 12,
        "INNER_PRODUCT": 14,
        "LRN": 15,
        "POOLING": 17,
        "RELU": 18,
        "SIGMOID": 19,
        "SOFTMAX": 20,
        "SOFTMAX_LOSS": 21,
        "SPLIT": 22,
        "TANH": 23,
        "ELTWISE": 25,
        "POWER": 26,
        "SLICE": 33,
        "MVN": 34,
        "SILENCE": 36,
    },
}
_PACKED = ("dim", "data")


@cache
def messages() -> dict[str, Any]:
    """Return the message classes by name; ``NetParameter`` is a whole file."""
    file = FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for name, values in _ENUMS.items():
        # Values share a scope in protobuf: each enum gets its own.
        enum = file.message_type.add(name=f"{name}Scope").enum_type.add(name=name)
        for value, number in values.items():
            enum.value.add(name=value, number=number)
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, *default) in fields.items():
            _add_field(message.field.add(name=field, number=number), kind, default)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}"))
        for name in _MESSAGES
    }


def _add_field(field: FieldDescriptorProto, kind: str, default: list[str]) -> None:
    scalar = kind.rstrip("*")
    repeated = kind.endswith("*")
    field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
    if scalar in _MESSAGES:
        field.type, field.type_name = field.TYPE_MESSAGE, f".caffe.{scalar}"
    elif scalar in _ENUMS:
        field.type, field.type_name = field.TYPE_ENUM, f".caffe.{scalar}Scope.{scalar}"
    else:
        field.type = getattr(field, f"TYPE_{scalar.upper()}")
    if default:
        field.default_value = default[0]
    if field.name in _PACKED:
        field.options.packed = True
