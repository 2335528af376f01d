"""``resolver.h``: the operators that a microcontroller's interpreter has to know."""

from __future__ import annotations

from mobilette.errors import InputError

RESOLVER = "resolver.h"

# Names of MicroMutableOpResolver's methods: tensorflow/lite/micro/micro_mutable_op_resolver.h
METHODS = {
    "ADD": "AddAdd",
    "AVERAGE_POOL_2D": "AddAveragePool2D",
    "CONCATENATION": "AddConcatenation",
    "CONV_2D": "AddConv2D",
    "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D",
    "FULLY_CONNECTED": "AddFullyConnected",
    "HARD_SWISH": "AddHardSwish",
    "MAXIMUM": "AddMaximum",
    "MAX_POOL_2D": "AddMaxPool2D",
    "MEAN": "AddMean",
    "MINIMUM": "AddMinimum",
    "MUL": "AddMul",
    "PAD": "AddPad",
    "PADV2": "AddPadV2",
    "QUANTIZE": "AddQuantize",
    "RELU": "AddRelu",
    "RELU6": "AddRelu6",
    "RESHAPE": "AddReshape",
    "SLICE": "AddSlice",
    "STRIDED_SLICE": "AddStridedSlice",
    "SUM": "AddSum",
    "TRANSPOSE": "AddTranspose",
}


def resolver_header(operators: tuple[str, ...]) -> str:
    """Return ``resolver.h``: a function that adds just these operators to a resolver.

    Raises:
        InputError: an operator is none of those that our networks need.
    """
    unknown = [name for name in operators if name not in METHODS]
    if unknown:
        raise InputError(f"mcu: {', '.join(unknown)} cannot be used there")
    calls = "\n".join(
        f"  if (resolver.{METHODS[name]}() != kTfLiteOk) return kTfLiteError;" for name in operators
    )
    return f"""\
#ifndef MOBILETTE_RESOLVER_H_
#define MOBILETTE_RESOLVER_H_

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

constexpr int kOperators = {len(operators)};

// Adds what the model needs, and nothing else.
inline TfLiteStatus AddOperators(tflite::MicroMutableOpResolver<kOperators>& resolver) {{
{calls}
  return kTfLiteOk;
}}

#endif  // MOBILETTE_RESOLVER_H_
"""
