"""PyTorch's exported programs, which converters read, and its observers of int8 ranges (pt2e)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.export import Dim, ExportedProgram
from torch.fx import Node

from mobilette.compression.ranges import Ranges, histogram_range
from mobilette.errors import InputError
from mobilette.exporters.target import PixelsToLogits, Prepared


def export_program(
    prepared: Prepared, *, dtype: torch.dtype = torch.uint8, batch: Dim | None = None
) -> ExportedProgram:
    """Return the network with its normalisation, from pixels (N, C, H, W) to logits (N, classes).

    Sizes are constants in it, which converters by tracing would otherwise see computed.

    ``dtype`` is that of the pixels, 0 to 255; ``batch`` is N, by default 1.
    """
    module = PixelsToLogits(prepared.network, prepared.normalise, layout="NCHW").eval()
    pixels = torch.from_numpy(prepared.golden.inputs[: 1 if batch is None else 2]).to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(
            module, (pixels,), dynamic_shapes=None if batch is None else ({0: batch},)
        )


def traced(program: ExportedProgram) -> torch.jit.ScriptModule:
    """Return ``program`` as the TorchScript that older converters read."""
    module = program.module(check_guards=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.trace(  # type: ignore[no-untyped-call]
            module, program.example_inputs[0], check_trace=False
        )
    assert isinstance(script, torch.jit.ScriptModule)
    return script


def unsupported(target: str, program: ExportedProgram, operators: Iterable[str]) -> InputError:
    """Return the error for a network with operators that ``target`` does not support."""
    found = ", ".join(f"{each} (layer {_layer(program, each)})" for each in sorted(set(operators)))
    return InputError(f"--to {target}: {found} is not supported by {target}; use --to onnx")


def layer_of(node: Node) -> str:
    """Return the name of the layer that ``node`` computes, empty for what is in no layer."""
    stack = node.meta.get("nn_module_stack")
    path = str(list(stack.values())[-1][0]) if stack else ""
    return path.removeprefix("network.")


def _layer(program: ExportedProgram, operator: str) -> str:
    short = operator.replace("::", ".").split(".")
    for node in program.graph.nodes:
        name = str(node.target).split(".")
        stack = node.meta.get("nn_module_stack")
        if node.op == "call_function" and stack and set(short[-2:]) & set(name[-2:]) - {"aten"}:
            return layer_of(node) or "of the network itself"
    return "unknown"


def activation_observer(ranges: Ranges) -> Any:
    """Return the class of the observer for ``ranges``, made here because its base is in an extra.

    All of them collect a histogram. ``plain`` is what LiteRT's and XNNPACK's quantisers take by
    themselves, torchao's `HistogramObserver`: it begins with all values and cuts an end, a
    hundred-thousandth of the values at a time, as long as its estimate of the mean square error
    falls, at least once; so a value far from all others is cut off. ``percentile`` and ``mse`` are
    those of `mobilette.compression.ranges`; the latter compares ranges, and knows that zero is
    exact.
    """
    from torchao.quantization.pt2e.observer import HistogramObserver

    if ranges == "plain":
        return HistogramObserver

    class RangeObserver(HistogramObserver):  # type: ignore[misc]
        """Collects a histogram and takes the range that `histogram_range` finds in it."""

        def calculate_qparams(self) -> Any:
            """Return scale and zero point."""
            low, high = float(self.min_val), float(self.max_val)
            edges = np.linspace(low, high, self.bins + 1)
            low, high = histogram_range(ranges, self.histogram.double().numpy(), edges)
            return self._calculate_qparams(torch.tensor(low), torch.tensor(high))

    return RangeObserver


@contextmanager
def quiet_log(name: str | None = None) -> Iterator[None]:
    """Silence a logger, the root's by default, also if nobody has set it up."""
    logger, handler = logging.getLogger(name), logging.NullHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
