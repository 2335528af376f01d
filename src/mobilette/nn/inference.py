"""A network that only answers, on the CPU: batch norms folded, activations in place."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from mobilette.nn.convolutions import Conv2d, SamePadConv2d
from mobilette.nn.layers import ReLU6
from mobilette.nn.network import Network
from mobilette.nn.threads import torch_threads


class Pointwise(nn.Module):
    """A 1x1 convolution as a matrix product, which PyTorch computes with fewer copies."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(conv.weight.flatten(1)), conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of ``x`` (N, C, H, W), channels last."""
        product = functional.linear(x.permute(0, 2, 3, 1), self.weight, self.bias)
        return product.permute(0, 3, 1, 2)


def for_inference(network: Network) -> Network:
    """Return a copy of ``network`` in evaluation mode that answers the same, faster on the CPU.

    Each batch norm becomes part of the convolution before it, computed in float64 by PyTorch's own
    function: `mobilette.compression.folding` makes artifacts, and what they are compared with must
    not share its mistakes. Logits, features and maps differ by rounding. A network on another
    device is returned as it is, and so is one with hooks, which see what its layers give.
    """
    if next(network.parameters()).device.type != "cpu" or has_hooks(network):
        return network.eval()
    with torch_threads(1):  # these are many small tensors
        fast = copy.deepcopy(network).eval().requires_grad_(False)
        for parents, names in fast.sequences():
            parent: Any = fast
            for part in parents:
                parent = parent._modules[part]
            _prepare(parent._modules, names)
        fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return fast


def has_hooks(network: Network) -> bool:
    """Whether a module of ``network`` has forward hooks."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def _prepare(modules: dict[str, nn.Module], names: Sequence[str]) -> None:
    """Replace some of ``modules``, of which each in ``names`` alone reads the one before it."""
    conv, *behind = (modules[name] for name in names)
    if type(conv) not in (nn.Conv2d, Conv2d, SamePadConv2d):
        return
    assert isinstance(conv, nn.Conv2d)
    rest = list(names[1:])
    if behind and _fold(conv, behind[0]):
        modules[rest.pop(0)] = nn.Identity()
    if rest:
        modules[rest[0]] = _in_place(modules[rest[0]])
    if conv.kernel_size == conv.stride == (1, 1) and conv.groups == 1:
        modules[names[0]] = Pointwise(conv)


def _fold(conv: nn.Conv2d, norm: nn.Module) -> bool:
    """Make ``norm`` part of ``conv``; return whether that was possible."""
    if type(norm) is not nn.BatchNorm2d or norm.running_mean is None or norm.running_var is None:
        return False
    weight, bias = fuse_conv_bn_weights(
        conv.weight.double(),
        None if conv.bias is None else conv.bias.double(),
        norm.running_mean.double(),
        norm.running_var.double(),
        norm.eps,
        norm.weight.double(),
        norm.bias.double(),
    )
    conv.weight, conv.bias = (
        nn.Parameter(each.to(conv.weight.dtype), requires_grad=False) for each in (weight, bias)
    )
    return True


def _in_place(activation: nn.Module) -> nn.Module:
    if isinstance(activation, ReLU6):
        return nn.ReLU6(inplace=True)
    return nn.Hardswish(inplace=True) if isinstance(activation, nn.Hardswish) else activation
