"""The network as PyTorch's exported program, which converters of other engines read."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch.export import Dim, ExportedProgram
from torch.fx import Node

from mobilette.errors import InputError
from mobilette.exporters.target import PixelsToLogits, Prepared


def export_program(
    prepared: Prepared, *, dtype: torch.dtype = torch.uint8, batch: Dim | None = None
) -> ExportedProgram:
    """Return the network with its normalisation, from pixels (N, C, H, W) to logits (N, classes).

    Sizes are constants in it, which converters by tracing would otherwise see computed.

    Args:
        prepared: the network.
        dtype: of the pixels, 0 to 255.
        batch: N, 1 by default.
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
    """Return the error for a network with ``operators`` that the engine of ``target`` has not."""
    found = ", ".join(f"{each} (layer {_layer(program, each)})" for each in sorted(set(operators)))
    return InputError(
        f"--to {target}: its engine has no operator {found}; onnx has those of all "
        "networks: --to onnx"
    )


def layer_of(node: Node) -> str:
    """Return the name of the layer that ``node`` computes, empty for what is in no layer."""
    stack = node.meta.get("nn_module_stack")
    path = str(list(stack.values())[-1][0]) if stack else ""
    return path.removeprefix("network.")


def _layer(program: ExportedProgram, operator: str) -> str:
    """Return the name of the first layer that ``operator``, such as aten::relu, is in."""
    short = operator.replace("::", ".").split(".")
    for node in program.graph.nodes:
        name = str(node.target).split(".")
        stack = node.meta.get("nn_module_stack")
        if node.op == "call_function" and stack and set(short[-2:]) & set(name[-2:]) - {"aten"}:
            return layer_of(node) or "of the network itself"
    return "unknown"
