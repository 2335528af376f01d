"""Microcontrollers: LiteRT's int8 model as C++ for tflite-micro."""

from __future__ import annotations

import numpy as np

from mobilette.artifact.contract import Contract
from mobilette.artifact.cpp import (
    HEADER,
    RESOLVER,
    SOURCE,
    model_header,
    model_source,
    resolver_header,
)
from mobilette.artifact.golden import golden_inputs
from mobilette.artifact.tflite import ask_litert, litert_interpreter, micro_arena_bytes
from mobilette.errors import InputError
from mobilette.exporters import tflite_file
from mobilette.exporters.litert import MODEL, tflite_model
from mobilette.exporters.target import Calibration, Progress, Target, Written
from mobilette.model.model import Model

_NOTES = """
## On a microcontroller

Add `model.cc`, `model.h` and `resolver.h` to a project with tflite-micro:

```cpp
#include <algorithm>
#include <cmath>
#include <cstring>

#include "model.h"
#include "resolver.h"
#include "tensorflow/lite/micro/micro_interpreter.h"

alignas(16) static uint8_t arena[kArenaBytes];

int Classify(const uint8_t* pixels) {{  // {height} x {width} x {channels}, row by row
  static tflite::MicroMutableOpResolver<kOperators> resolver;
  static const TfLiteStatus added = AddOperators(resolver);
  static tflite::MicroInterpreter interpreter(tflite::GetModel(g_model), resolver, arena,
                                              kArenaBytes);
  static const TfLiteStatus allocated = interpreter.AllocateTensors();
  if (added != kTfLiteOk || allocated != kTfLiteOk) return -1;
  memcpy(interpreter.input(0)->data.uint8, pixels, {height} * {width} * {channels});
  if (interpreter.Invoke() != kTfLiteOk) return -1;
  const int8_t* answers = interpreter.output(0)->data.int8;
  const int best = std::max_element(answers, answers + kLabels) - answers;
{unknown_cpp}  return best;  // g_labels[best] is its name
}}
```
"""


def write_mcu(
    model: Model, contract: Contract, calibration: Calibration | None, progress: Progress
) -> Written:
    """Write the int8 model, its C++ and its operators; float layers are an `InputError`."""
    if contract.float_layers:
        raise InputError(
            f"--to mcu computes in integers only, so {', '.join(contract.float_layers)} cannot "
            "stay in float; use --to litert"
        )
    content = tflite_model(model, contract, calibration, progress)
    arena_bytes = micro_arena_bytes(content)
    operators = tflite_file.operators(tflite_file.read(content))
    golden = golden_inputs(model.arch.in_channels, model.arch.resolution)
    labels = [label.name for label in contract.classes]
    files = {
        SOURCE: model_source(content, labels),
        HEADER: model_header(labels=len(labels), arena_bytes=arena_bytes),
        RESOLVER: resolver_header(operators),
    }
    return Written(
        files={MODEL: content} | {name: text.encode() for name, text in files.items()},
        size_bytes=len(content),
        arena_bytes=arena_bytes,
        operators=operators,
        exact=ask_litert(
            litert_interpreter(content, reference=True),
            np.ascontiguousarray(golden.transpose(0, 2, 3, 1)),
        )[0],
    )


MCU = Target(
    name="mcu",
    precisions=("int8",),
    packages=("litert-torch", "ai-edge-litert", "tflite-micro"),
    extra="mcu",
    model=MODEL,
    parts=(SOURCE, HEADER, RESOLVER),
    layout="NHWC",
    batch=1,
    features=None,
    integer_answers=True,
    default_ranges_differ_from_minmax=True,
    writer=write_mcu,
    imports="from tflite_micro import runtime",
    code="""\
interpreter = runtime.Interpreter.from_file("{model}", arena_size=2**26)
interpreter.set_input(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), 0)
interpreter.invoke()
steps = interpreter.get_output_details(0)["quantization_parameters"]
logits = interpreter.get_output(0)[0].astype(np.float32) - np.float32(steps["zero_points"][0])
logits *= np.float32(steps["scales"][0])""",
    notes=_NOTES,
)
