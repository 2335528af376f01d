"""Initial weights of layers that are added to a trained network, so that it computes the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from mobilette.arch.arch import Arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import (
    ActivationLayer,
    AddLayer,
    AnyLayer,
    ConcatLayer,
    ConvLayer,
    NormLayer,
    PoolLayer,
)
from mobilette.arch.rows import Activation, BatchNorm, Block, Conv, Row
from mobilette.formats.importance import Moments, estimated_moments

# The input of a new squeeze-and-excitation's last activation: where that still has a gradient.
_OPEN = 2.0
_FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "hard_sigmoid": functional.hardsigmoid,
    "sigmoid": torch.sigmoid,
}
_NOT_NEGATIVE = ("relu", "relu6", "hard_sigmoid", "sigmoid")


def rows_as_identity(
    arch: Arch, weights: dict[str, Tensor], new: Mapping[int, Moments]
) -> dict[int, bool]:
    """Let new rows of ``arch`` compute what they read, where they can; change ``weights``.

    A block with a residual adds zero: the scale and shift of its last batch norm are 0 (Goyal et
    al. 2017, arXiv 1706.02677, section 5.1, for all residual blocks). Plain convolutions become
    the identity (Net2DeeperNet, Chen et al. 2016, arXiv 1511.05641), if their activations let what
    they read pass. Others stay as they are.

    Args:
        arch: the network with the new rows.
        weights: its state dict.
        new: by new row, mean and variance of each channel that it reads.

    Returns:
        By new row, whether it is the identity.
    """
    by_name = {layer.name: layer for layer in layers(arch)}
    return {
        number: _as_identity(arch, f"rows.{number}", arch.rows[number], by_name, weights, moments)
        for number, moments in new.items()
    }


def _as_identity(
    arch: Arch,
    name: str,
    row: Row,
    by_name: Mapping[str, AnyLayer],
    weights: dict[str, Tensor],
    moments: Moments,
) -> bool:
    inside = [layer for layer in by_name.values() if layer.name.startswith(f"{name}.")]
    before = _passes(by_name, inside[0].inputs[0])
    epsilon = arch.norm_epsilon
    if isinstance(row, Block) and row.join == "add" and not row.entry and not row.split:
        add = by_name[f"{name}.add"]
        assert isinstance(add, AddLayer)
        paths = dict(zip(add.inputs, row.paths, strict=True))
        kept = [end for end, path in paths.items() if not path or _is_norm(path)]
        if len(kept) != 1 or not _lets_pass(row.activation, before):
            return False
        for end in paths:
            if end not in kept:
                _silence(end, by_name, weights)
        if paths[kept[0]]:
            _norm_as_identity(kept[0], weights, moments, epsilon)
        return True
    chain = [row] if isinstance(row, Conv) else [step.operation for step in row.steps()]  # type: ignore[union-attr]
    plain = isinstance(row, Conv) or (isinstance(row, Block) and not row.paths)
    if not plain or not all(_can_pass(operation, before) for operation in chain):
        return False
    channels = {layer.shape[0] for layer in inside if isinstance(layer, ConvLayer)}
    if channels != {len(moments[0])}:
        return False
    for layer in inside:
        if isinstance(layer, ConvLayer):
            weight = weights[f"{layer.name}.weight"]
            torch.nn.init.dirac_(weight, groups=layer.groups)
            if layer.bias:
                weights[f"{layer.name}.bias"].zero_()
        elif isinstance(layer, NormLayer):
            _norm_as_identity(layer.name, weights, moments, epsilon)
    return True


def _is_norm(path: tuple[object, ...]) -> bool:
    return len(path) == 1 and isinstance(getattr(path[0], "operation", None), BatchNorm)


def _can_pass(operation: object, before: Activation) -> bool:
    """Whether a convolution can be the identity for values that the activation ``before`` had."""
    if not isinstance(operation, Conv) or operation.padding == "valid":
        return False
    whole = operation.groups in (1, operation.channels)
    return operation.stride == 1 and whole and _lets_pass(operation.activation, before)


def _lets_pass(function: Activation, before: Activation) -> bool:
    if function == "relu6":
        return before in ("relu6", "hard_sigmoid", "sigmoid")
    return function == "none" or (function == "relu" and before in _NOT_NEGATIVE)


def _passes(by_name: Mapping[str, AnyLayer], name: str) -> Activation:
    """Return an activation whose values include all that the layer ``name`` may compute."""
    layer = by_name.get(name)
    match layer:
        case ActivationLayer():
            return layer.function
        case PoolLayer():
            return _passes(by_name, layer.inputs[0])
        case ConcatLayer():
            functions = {_passes(by_name, each) for each in layer.inputs}
            return functions.pop() if len(functions) == 1 else "none"
        case _:
            return "none"


def _silence(name: str, by_name: Mapping[str, AnyLayer], weights: dict[str, Tensor]) -> None:
    """Let the layer ``name`` compute zero, by its last weights."""
    layer = by_name[name]
    if isinstance(layer, NormLayer | ConvLayer):
        for tensor in ("weight", "bias"):
            if f"{name}.{tensor}" in weights:
                weights[f"{name}.{tensor}"].zero_()
    elif isinstance(layer, ConcatLayer | ActivationLayer):
        for each in layer.inputs:
            _silence(each, by_name, weights)


def _norm_as_identity(
    name: str, weights: dict[str, Tensor], moments: Moments, epsilon: float
) -> None:
    """Let a batch norm return what it reads, in training too if that has the ``moments``."""
    mean, variance = (each.float() for each in moments)
    weights[f"{name}.running_mean"].copy_(mean)
    weights[f"{name}.running_var"].copy_(variance)
    weights[f"{name}.weight"].copy_(torch.sqrt(variance + epsilon))
    weights[f"{name}.bias"].copy_(mean)


def open_excitation(arch: Arch, name: str, weights: dict[str, Tensor]) -> None:
    """Let the new squeeze-and-excitation ``name`` change nothing; change ``weights``.

    Its last convolution has weights of 0 and a bias at which the factors are below 1, where their
    function has a gradient; the layer that reads the product makes up for it.
    """
    expand = f"{name}.expand"
    weights[f"{expand}.conv.weight"].zero_()
    weights[f"{expand}.conv.bias"].fill_(_OPEN)
    function = next(
        layer.function
        for layer in layers(arch)
        if layer.name == f"{expand}.activation" and isinstance(layer, ActivationLayer)
    )
    factor = _FUNCTIONS[function](torch.tensor(_OPEN))
    for reader in _readers(arch, f"{name}.scale"):
        weights[f"{reader}.weight"] = weights[f"{reader}.weight"] / factor


def without_excitation(arch: Arch, name: str, weights: dict[str, Tensor]) -> None:
    """Let the layers after a squeeze-and-excitation do without it; change ``weights``.

    They multiply by the factors that it gives for the estimated mean of each channel.
    """
    convolutions = [f"{name}.{part}" for part in ("reduce", "expand")]
    scale = next(layer for layer in layers(arch) if layer.name == f"{name}.scale")
    factors, _ = estimated_moments(arch, weights)[scale.inputs[0]]
    functions = {
        layer.name: layer.function for layer in layers(arch) if isinstance(layer, ActivationLayer)
    }
    for each in convolutions:
        if f"{each}.norm.weight" in weights:
            return
        weight = weights[f"{each}.conv.weight"].double().flatten(1)
        factors = weight @ factors
        if f"{each}.conv.bias" in weights:
            factors = factors + weights[f"{each}.conv.bias"].double()
        factors = _apply(functions.get(f"{each}.activation", "none"), factors)
    for reader in _readers(arch, f"{name}.scale"):
        weights[f"{reader}.weight"] = weights[f"{reader}.weight"] * factors.float()[:, None, None]


def _apply(function: Activation, x: Tensor) -> Tensor:
    match function:
        case "none":
            return x
        case "relu":
            return x.relu()
        case "relu6":
            return functional.relu6(x)
        case "hard_swish":
            return functional.hardswish(x)
        case _:
            return _FUNCTIONS[function](x)


def _readers(arch: Arch, name: str) -> list[str]:
    """Return the full convolutions that read the layer ``name``."""
    return [
        layer.name
        for layer in layers(arch)
        if name in layer.inputs and isinstance(layer, ConvLayer) and layer.groups == 1
    ]
