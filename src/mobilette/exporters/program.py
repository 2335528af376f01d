"""PyTorch's exported programs, for converters, and its observers of int8 ranges (pt2e)."""

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

from mobilette.artifact.golden import golden_inputs
from mobilette.compression.ranges import Ranges, histogram_range
from mobilette.data.normalise import Normalise
from mobilette.errors import InputError
from mobilette.exporters.target import PixelsToLogits
from mobilette.model.model import Model
from mobilette.nn.network import Network


def export_program(
    model: Model,
    *,
    network: Network | None = None,
    dtype: torch.dtype = torch.uint8,
    batch: Dim | None = None,
    features: bool = False,
) -> ExportedProgram:
    """Return a model with its normalisation, from pixels (N, C, H, W) to logits (N, classes).

    With ``features`` the features (N, D) are a second output.

    Its sizes are constants, which tracing converters would otherwise see computed. ``network``
    replaces the model's own; ``dtype`` is the pixels', 0 to 255; ``batch`` is N, 1 by default.
    """
    normalise = Normalise(model.preprocess)
    module = PixelsToLogits(
        network or model.network, normalise, layout="NCHW", features=features
    ).eval()
    inputs = golden_inputs(model.arch.in_channels, model.arch.resolution)
    pixels = torch.from_numpy(inputs[: 1 if batch is None else 2]).to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(
            module, (pixels,), dynamic_shapes=None if batch is None else ({0: batch},)
        )


def traced(program: ExportedProgram) -> torch.jit.ScriptModule:
    """Return ``program`` as TorchScript, for older converters."""
    module = program.module(check_guards=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.trace(  # type: ignore[no-untyped-call]
            module, program.example_inputs[0], check_trace=False
        )
    assert isinstance(script, torch.jit.ScriptModule)
    return script


def unsupported(target: str, program: ExportedProgram, operators: Iterable[str]) -> InputError:
    """Return the error for operators that ``target`` does not support."""
    found = ", ".join(f"{each} (layer {_layer(program, each)})" for each in sorted(set(operators)))
    return InputError(f"--to {target}: {found} is not supported by {target}; use --to onnx")


def layer_of(node: Node) -> str:
    """Return the layer that ``node`` belongs to, or an empty string."""
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
    """Return the observer class for ``ranges``, defined here because its base is an extra's.

    All collect a histogram. ``plain`` is torchao's `HistogramObserver`, the default of LiteRT's and
    XNNPACK's quantisers: it cuts a hundred-thousandth of the values at a time, at least once, while
    its estimated mean square error falls, and so drops outliers. ``percentile`` and ``mse`` are
    those of `mobilette.compression.ranges`; that ``mse`` compares ranges and knows that zero is
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
    """Silence a logger, by default the root's, even if it has no handler."""
    logger, handler = logging.getLogger(name), logging.NullHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
