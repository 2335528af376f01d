"""Depthwise convolutions on the CPU, with the batch norms and activations around them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from mobilette.arch.primitives import is_depthwise, same_padding
from mobilette.nn.convolutions import Conv2d, SamePadConv2d
from mobilette.nn.fused_norm import (
    TYPES,
    Kind,
    Settled,
    Statistics,
    gradients_of_norm,
    kind_of,
    running,
    settle,
)
from mobilette.nn.kernels import call_kernel

# Fewer channels than a kernel takes at once.
LEAST_CHANNELS, LEAST_CHANNELS_WITH_NORM = 4, 16
_NOTHING: Kind = ("", 0.0, 0.0)
_IDENTITY = kind_of(nn.Identity())


class _Depthwise(torch.autograd.Function):
    """The convolution, and the statistics of what it gives."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, weight: Tensor, conv: Conv2d, statistics: Statistics | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.conv = conv  # type: ignore[attr-defined]
        return _forward(x, weight, conv, statistics, _NOTHING, None)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        conv: Conv2d = ctx.conv  # type: ignore[attr-defined]
        of_x, of_weight, _ = _backward(x, weight, conv, gradient, _NOTHING, None)
        return of_x, of_weight, None, None


class _NormAndDepthwise(torch.autograd.Function):
    """Batch norm, activation and convolution: the normalised values are never in memory."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        weight: Tensor,
        norm: nn.BatchNorm2d,
        kind: Kind,
        conv: Conv2d,
        statistics: Statistics | None,
    ) -> Tensor:
        settled = settle(x, norm)
        ctx.save_for_backward(x, weight, *settled)
        ctx.kind, ctx.conv = kind, conv  # type: ignore[attr-defined]
        return _forward(x, weight, conv, statistics, kind, settled)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, gradient: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, None, None, None, None]:
        x, weight, *values = ctx.saved_tensors  # type: ignore[attr-defined]
        settled, kind, conv = Settled(*values), ctx.kind, ctx.conv  # type: ignore[attr-defined]
        of_z, of_weight, sums = _backward(x, weight, conv, gradient, kind, settled)
        assert sums is not None
        of_norm = gradients_of_norm(x, of_z, settled, sums, _IDENTITY, out=of_z)
        return of_z, *of_norm, of_weight, None, None, None, None


def _forward(
    x: Tensor,
    weight: Tensor,
    conv: Conv2d,
    statistics: Statistics | None,
    kind: Kind,
    norm: Settled | tuple[Tensor, Tensor] | None,
) -> Tensor:
    shape = _shape(x, conv)
    y = torch.empty(
        (x.shape[0], x.shape[1], *shape[4:6]), dtype=x.dtype, memory_format=torch.channels_last
    )
    scale, shift = norm[-2:] if norm is not None else (None, None)
    call_kernel(
        f"depthwise_forward_{TYPES[x.dtype]}", *shape, x, weight, y,
        *(statistics or (None, None)), *kind, scale, shift, None,
    )  # fmt: skip
    return y


def _backward(
    x: Tensor, weight: Tensor, conv: Conv2d, gradient: Tensor, kind: Kind, norm: Settled | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of the norm's output and of the weights, and sums for those of the norm.

    Without a norm, the first is that of ``x``.
    """
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    of_x, of_weight = torch.empty_like(x), torch.empty_like(weight)
    sums = x.new_empty(x.shape[1], 2, dtype=torch.float64) if norm is not None else None
    call_kernel(
        f"depthwise_backward_{TYPES[x.dtype]}", *_shape(x, conv), gradient, x, weight, of_x,
        of_weight, sums, *kind,
        *((norm.scale, norm.shift, norm.mean) if norm is not None else (None, None, None)),
    )  # fmt: skip
    return of_x, of_weight, sums


def _shape(x: Tensor, conv: Conv2d) -> tuple[int, ...]:
    images, channels, rows, columns = x.shape
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    if isinstance(conv, SamePadConv2d):
        pads = [same_padding(side, kernel=kernel, stride=stride) for side in (rows, columns)]
    else:
        pads = [(int(each), int(each)) for each in conv.padding]
    outs = [
        (side + sum(pad) - kernel) // stride + 1
        for side, pad in zip((rows, columns), pads, strict=True)
    ]
    return (images, channels, rows, columns, *outs, pads[0][0], pads[1][0], kernel, stride)


def in_autocast(x: Tensor) -> Tensor:
    """Return ``x`` in the type that autocast gives a convolution's input on the CPU."""
    if not torch.is_autocast_enabled("cpu"):
        return x
    return x.to(torch.get_autocast_dtype("cpu"))


def is_ours(conv: nn.Module) -> bool:
    """Whether there are kernels for the depthwise convolution ``conv``."""
    return (
        type(conv) in (Conv2d, SamePadConv2d)
        and isinstance(conv, nn.Conv2d)
        and is_depthwise(conv.groups, conv.in_channels, conv.out_channels)
        and conv.in_channels >= LEAST_CHANNELS
        and conv.bias is None
        and conv.dilation == (1, 1)
        and conv.kernel_size in ((3, 3), (5, 5), (7, 7))
        and conv.stride in ((1, 1), (2, 2))
        and conv.weight.dtype == torch.float32
        and conv.weight.is_contiguous()
        and conv.weight.device.type == "cpu"
    )


def can_convolve(x: Tensor, conv: nn.Module, *, with_norm: bool = False) -> bool:
    """Whether `depthwise` can compute ``conv(x)``, or `norm_and_depthwise` with a norm before it.

    It can for channels-last float32 and bfloat16 on the CPU.
    """
    return (
        not torch.compiler.is_compiling()
        and is_ours(conv)
        and x.device.type == "cpu"
        and x.dtype in TYPES
        and x.dim() == 4
        and x.numel() > 0
        and x.shape[1] == conv.in_channels
        and x.shape[1] >= (LEAST_CHANNELS_WITH_NORM if with_norm else LEAST_CHANNELS)
        and x.is_contiguous(memory_format=torch.channels_last)
        and min(_shape(x, conv)[4:6]) > 0  # type: ignore[arg-type]
    )


def depthwise(x: Tensor, conv: Conv2d, *, statistics: Statistics | None = None) -> Tensor:
    """Return ``conv(x)``, each map read or written once; in training also once backward.

    Sums are floats, and weights are not rounded to bf16. Results do not depend on the number of
    threads.

    Args:
        x: float32 or bfloat16 (N, C, H, W) for which `can_convolve` holds.
        conv: a depthwise convolution without bias.
        statistics: if given, those of the result are written into it.

    Raises:
        NoKernels: there is no C++ compiler (`mobilette.nn.kernels`).
    """
    result: Tensor = _Depthwise.apply(  # type: ignore[no-untyped-call]
        x, conv.weight, conv, statistics
    )
    return result


def norm_and_depthwise(
    x: Tensor,
    norm: nn.BatchNorm2d,
    activation: nn.Module,
    conv: Conv2d,
    *,
    statistics: Statistics | None = None,
) -> Tensor:
    """Return ``conv(activation(norm(x)))``, for which what is convolved is never in memory.

    As `mobilette.nn.fused_norm.norm_and_activation` and `depthwise`, for which `can_fuse` and
    `can_convolve` hold; ``x`` is not overwritten.
    """
    kind = kind_of(activation)
    if not norm.training:
        return _forward(x, conv.weight, conv, statistics, kind, running(norm))
    result: Tensor = _NormAndDepthwise.apply(  # type: ignore[no-untyped-call]
        x, norm.weight, norm.bias, conv.weight, norm, kind, conv, statistics
    )
    return result
