"""ExecuTorch with the XNNPACK delegate; int8 by PyTorch's own quantiser."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from mobilette.artifact.contract import METADATA_KEY, Contract, canonical
from mobilette.compression.float_layers import in_float, is_part_of
from mobilette.compression.ranges import Ranges
from mobilette.errors import InputError
from mobilette.exporters.program import activation_observer, export_program, layer_of, unsupported
from mobilette.exporters.target import Calibration, Progress, Target, Written
from mobilette.extras import needs
from mobilette.model.model import Model
from mobilette.silence import silence

MODEL = "model.pte"
# Memory is planned for the largest batch, whatever batch is run.
LARGEST_BATCH = 8
BATCH = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)


def write_executorch(
    model: Model, contract: Contract, calibration: Calibration | None, progress: Progress
) -> Written:
    """Write the program, for uint8 NCHW pixels of 1 to 8 images.

    Beside ``forward`` it has a method that returns the contract's bytes.
    """
    with needs("executorch", "export to executorch"), silence():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
    program = export_program(model, batch=BATCH, features=bool(contract.features))
    if calibration is not None:
        floats = in_float(model.arch, frozenset(contract.float_layers))
        quantiser = _quantiser(contract.ranges, floats)
        program = _quantised(program, quantiser, calibration.pixels, progress)
    text = bytearray(canonical(contract.embedded()).encode())
    with silence(), _kernels_for_all(program):
        lowered = to_edge_transform_and_lower(
            program,
            partitioner=[XnnpackPartitioner()],
            constant_methods={METADATA_KEY: torch.frombuffer(text, dtype=torch.uint8)},
        ).to_executorch()
    _check_kernels(program, lowered)
    return Written(files={MODEL: bytes(lowered.buffer)})


# XNNPACK's message for int8 weights with float input (executorch 1.5.1).
MIXED = "Weight and Input should both be quantized"
EXECUTORCH = Target(
    name="executorch",
    precisions=("fp32", "int8"),
    packages=("executorch", "torchao"),
    extra="executorch",
    default_ranges_differ_from_minmax=True,
    model=MODEL,
    input="forward.0",
    output="forward.0",
    features="forward.1",
    writer=write_executorch,
    imports="import torch\nfrom executorch.runtime import Runtime",
    code="""\
forward = Runtime.get().load_program("{model}").load_method("forward")
logits = forward.execute([torch.from_numpy(np.ascontiguousarray(pixels))])[0].numpy()[0]""",
)


def _quantised(
    program: ExportedProgram, quantiser: Any, pixels: NDArray[np.uint8], progress: Progress
) -> ExportedProgram:
    """Return ``program`` with weights int8 per channel and activations int8 per tensor."""
    with needs("executorch", "int8 for executorch"), silence():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    with silence(), torch.inference_mode():
        observed = prepare_pt2e(program.module(check_guards=False), quantiser)
        for first in range(0, len(pixels), LARGEST_BATCH):
            progress("calibrating", first, len(pixels))
            observed(torch.from_numpy(pixels[first : first + LARGEST_BATCH]))
        quantised = convert_pt2e(observed)
    with silence():
        return torch.export.export(
            quantised, program.example_inputs[0], dynamic_shapes=({0: BATCH},)
        )


def _quantiser(ranges: Ranges, floats: Set[str]) -> Any:
    with needs("executorch", "int8 for executorch"), silence():
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
    config = get_symmetric_quantization_config(is_per_channel=True)
    if ranges != "plain":
        observer = activation_observer(ranges).with_args(eps=2**-12)
        activations = replace(config.output_activation, observer_or_fake_quant_ctr=observer)
        config = replace(config, input_activation=activations, output_activation=activations)
    quantiser = XNNPACKQuantizer().set_global(config)
    if floats:
        quantiser.set_filter_function(lambda node: not is_part_of(layer_of(node), floats))
    return quantiser


@contextmanager
def _kernels_for_all(program: ExportedProgram) -> Iterator[None]:
    """Turn ExecuTorch's conversion errors into ones that name the unsupported operators."""
    from torch._export.verifier import SpecViolationError

    try:
        yield
    except (RuntimeError, SpecViolationError) as error:
        if MIXED in str(error):
            raise InputError(
                "--to executorch: XNNPACK has no int8 kernel behind these float layers; keep "
                "other layers in float, or none"
            ) from error
        pattern = r"Missing out variants: .*" if isinstance(error, RuntimeError) else r"Operator .*"
        line = re.search(pattern, str(error))
        operators = re.findall(r"aten(?:::|\.)(\w+)", line.group()) if line else []
        if not operators:
            raise
        raise unsupported("executorch", program, operators) from error


def _check_kernels(program: ExportedProgram, lowered: Any) -> None:
    with silence():
        from executorch.extension.pybindings import portable_lib
    known = set(portable_lib._get_operator_names())
    plans = lowered.executorch_program.execution_plan
    needed = {".".join(filter(None, (o.name, o.overload))) for p in plans for o in p.operators}
    if missing := needed - known:
        raise unsupported("executorch", program, missing)
