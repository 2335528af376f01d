"""The modules of the primitive layers of `mobilette.arch.primitives`."""

from __future__ import annotations

from typing import assert_never

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from mobilette.arch.arch import Arch
from mobilette.arch.primitives import (
    ActivationLayer,
    AdaptivePoolLayer,
    AddLayer,
    AnyLayer,
    ConcatLayer,
    ConvLayer,
    DropoutLayer,
    FlattenLayer,
    LinearLayer,
    NormLayer,
    PoolLayer,
    ScaleLayer,
    ShuffleLayer,
    SliceLayer,
    SubsampleLayer,
    symmetric_padding,
)
from mobilette.arch.rows import Activation
from mobilette.nn.convolutions import Conv2d, SamePadConv2d


class _Means(torch.autograd.Function):
    """The mean of every channel; its gradient is copied, for which ``avg_pool2d`` takes long."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        ctx.like = torch.empty_like(x, device="meta")  # type: ignore[attr-defined]
        return functional.avg_pool2d(x, x.shape[-2:])

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        like: Tensor = ctx.like  # type: ignore[attr-defined]
        each = gradient / like.shape[-2:].numel()
        return torch.empty_like(like, device=gradient.device).copy_(each.expand_as(like))


class GlobalAveragePool(nn.Module):
    """The mean of every channel, (N, C, H, W) to (N, C, 1, 1).

    The gradient of ``AdaptiveAvgPool2d(1)`` is an expanded tensor, with which batch norm's backward
    is many times slower on the CPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the means of ``x``."""
        if x.requires_grad and x.device.type == "cpu" and not torch.compiler.is_compiling():
            result: Tensor = _Means.apply(x)  # type: ignore[no-untyped-call]
            return result
        return functional.avg_pool2d(x, x.shape[-2:])


class _ReLU6InPlace(torch.autograd.Function):
    """ReLU6 whose backward needs the result only, not the input."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        x.clamp_(0.0, 6.0)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors  # type: ignore[attr-defined]
        passed: Tensor = torch.ops.aten.hardtanh_backward(gradient, result, 0.0, 6.0)
        return passed


class ReLU6(nn.ReLU6):
    """``min(max(x, 0), 6)``, in place in training.

    ``nn.ReLU6(inplace=True)`` copies its input for the backward pass; the result suffices.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the activation of ``input``."""
        if self.training and input.requires_grad and not torch.compiler.is_compiling():
            result: Tensor = _ReLU6InPlace.apply(input)  # type: ignore[no-untyped-call]
            return result
        return functional.relu6(input)


class Add(nn.Module):
    """The sum of tensors."""

    def forward(self, *parts: Tensor) -> Tensor:
        """Return the sum of ``parts``, all of one shape."""
        first, *others = parts
        for other in others:
            first = first + other
        return first


class Concat(nn.Module):
    """The concatenation of tensors along their channels."""

    def forward(self, *parts: Tensor) -> Tensor:
        """Return (N, sum of channels, H, W) of ``parts``, each (N, C, H, W)."""
        return torch.cat(parts, dim=1)


class Slice(nn.Module):
    """Some of the channels."""

    def __init__(self, begin: int, end: int) -> None:
        super().__init__()
        self.begin, self.end = begin, end

    def forward(self, x: Tensor) -> Tensor:
        """Return the channels ``begin`` to ``end`` of ``x`` (N, C, H, W)."""
        return x[:, self.begin : self.end]


class Scale(nn.Module):
    """The product of two tensors."""

    def forward(self, x: Tensor, factors: Tensor) -> Tensor:
        """Return ``x`` (N, C, H, W) times ``factors`` (N, C, 1, 1)."""
        return x * factors


class ShuffleChannels(nn.Module):
    """Channels as (groups, n) transposed to (n, groups)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (N, C, H, W) with its channels shuffled."""
        batch, channels, height, width = x.shape
        each = channels // self.groups
        if x.is_contiguous():
            grouped = x.reshape(batch, self.groups, each, height, width)
            return grouped.transpose(1, 2).reshape(batch, channels, height, width)
        # channels_last is kept: the layers that follow are fast in it only
        grouped = x.permute(0, 2, 3, 1).reshape(batch, height, width, self.groups, each)
        shuffled = grouped.transpose(3, 4).reshape(batch, height, width, channels)
        return shuffled.permute(0, 3, 1, 2)


class SubsampleAndPad(nn.Module):
    """Every ``stride``-th position; zeros as new channels, half before and half after the old."""

    def __init__(self, stride: int, new_channels: int) -> None:
        super().__init__()
        self.stride, self.new_channels = stride, new_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C + new channels, ceil(H / stride), ceil(W / stride)) of ``x``."""
        half = self.new_channels // 2
        x = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(x, (0, 0, 0, 0, half, half))


def build_layer(layer: AnyLayer | DropoutLayer, arch: Arch) -> nn.Module:
    """Return the module that computes ``layer``; it takes the layer's inputs in their order."""
    match layer:
        case ConvLayer():
            kind = SamePadConv2d if layer.padding == "tf_same" else Conv2d
            return kind(
                layer.in_channels,
                layer.shape[0],
                layer.kernel,
                stride=layer.stride,
                padding=symmetric_padding(layer.kernel) if layer.padding == "symmetric" else 0,
                groups=layer.groups,
                bias=layer.bias,
            )
        case LinearLayer():
            return nn.Linear(layer.in_features, layer.shape[0])
        case NormLayer():
            return nn.BatchNorm2d(
                layer.shape[0], eps=arch.norm_epsilon, momentum=arch.norm_momentum
            )
        case ActivationLayer():
            return _activation(layer.function)
        case DropoutLayer():
            return nn.Dropout(layer.probability)
        case PoolLayer():
            pool = nn.MaxPool2d if layer.function == "max" else nn.AvgPool2d
            return pool(layer.kernel, layer.stride, layer.padding, ceil_mode=layer.ceil_mode)
        case AdaptivePoolLayer():
            size = layer.shape[1]
            return GlobalAveragePool() if size == 1 else nn.AdaptiveAvgPool2d(size)
        case FlattenLayer():
            return nn.Flatten()
        case AddLayer():
            return Add()
        case ConcatLayer():
            return Concat()
        case SliceLayer():
            return Slice(layer.begin, layer.end)
        case ShuffleLayer():
            return ShuffleChannels(layer.groups)
        case SubsampleLayer():
            return SubsampleAndPad(layer.stride, layer.new_channels)
        case ScaleLayer():
            return Scale()
        case _:
            assert_never(layer)


def _activation(name: Activation) -> nn.Module:
    """Return the module of an activation, in place where that saves memory."""
    match name:
        case "relu":
            return nn.ReLU(inplace=True)
        case "relu6":
            return ReLU6()
        case "hard_swish":
            return nn.Hardswish()
        case "hard_sigmoid":
            return nn.Hardsigmoid(inplace=True)
        case "sigmoid":
            return nn.Sigmoid()
        case "none":
            return nn.Identity()
        case _:
            assert_never(name)


def initialise(module: nn.Module) -> None:
    """Draw a layer's weights: He et al. 2015 (fan out) for convolutions, N(0, 0.01) for linear.

    Nothing is done on the meta device, where drawing takes PyTorch long.
    """
    if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.is_meta:
        return
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.01)
        nn.init.zeros_(module.bias)
