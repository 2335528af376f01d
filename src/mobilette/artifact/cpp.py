"""C++ for microcontrollers: the model, its labels and operators."""

from __future__ import annotations

from collections.abc import Sequence

from mobilette.errors import InputError

SOURCE, HEADER = "model.cc", "model.h"
ARRAY = "alignas(16) const unsigned char g_model[] = {"
_A_LINE = 12


def model_source(model: bytes, labels: Sequence[str]) -> str:
    """Return ``model.cc``: the bytes of ``model`` and the class names."""
    lines = [
        "  " + " ".join(f"0x{byte:02x}," for byte in model[first : first + _A_LINE])
        for first in range(0, len(model), _A_LINE)
    ]
    names = [f"  {literal(label)}," for label in labels]
    return "\n".join(
        [
            '#include "model.h"',
            "",
            ARRAY,
            *lines,
            "};",
            f"const unsigned int g_model_len = {len(model)};",
            "",
            "const char* const g_labels[] = {",
            *names,
            "};",
            "",
        ]
    )


def model_header(*, labels: int, arena_bytes: int) -> str:
    """Return ``model.h``: the declarations of ``model.cc`` and the arena size."""
    return f"""\
#ifndef MOBILETTE_MODEL_H_
#define MOBILETTE_MODEL_H_

// The content of model.tflite.
extern const unsigned char g_model[];
extern const unsigned int g_model_len;

// The classes in the order of the model's answers, UTF-8.
constexpr int kLabels = {labels};
extern const char* const g_labels[];

// What the tensors needed on a host with 64-bit pointers; a microcontroller needs a little less.
constexpr int kArenaBytes = {arena_bytes};

#endif  // MOBILETTE_MODEL_H_
"""


def literal(text: str) -> str:
    """Return ``text``, encoded as UTF-8, as a C string literal of printable ASCII."""
    plain = {byte for byte in range(32, 127)} - set(b'"\\?')  # ?: no trigraphs
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in text.encode()) + '"'


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
    "LOGISTIC": "AddLogistic",
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
    """Return ``resolver.h``: a function that adds exactly these operators to a resolver."""
    unknown = [name for name in operators if name not in METHODS]
    if unknown:
        raise InputError(f"{', '.join(unknown)} is not supported by mcu; use --to litert")
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
