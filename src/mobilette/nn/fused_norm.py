"""Batch norm and activation in one pass, on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from mobilette.nn.kernels import load_kernels

# The function of batch_norm.cpp, and its bounds.
_ACTIVATIONS: dict[type[nn.Module], tuple[str, float, float]] = {
    nn.Identity: ("clamp", -torch.inf, torch.inf),
    nn.ReLU: ("clamp", 0.0, torch.inf),
    nn.ReLU6: ("clamp", 0.0, 6.0),
    nn.Hardswish: ("hard_swish", 0.0, 6.0),
}
_TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class _NormAndActivation(torch.autograd.Function):
    """Keeps only the input for the backward pass, which recomputes the normalised values."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        norm: nn.BatchNorm2d,
        momentum: float,
        kind: tuple[str, float, float],
    ) -> Tensor:
        result = torch.empty_like(x)
        channels = x.shape[1]
        mean, inverse_deviation = x.new_empty(2, channels, dtype=torch.float32).unbind()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        _call(
            "forward", x, kind,
            x.numel() // channels, channels, x, result, weight, bias, norm.running_mean,
            norm.running_var, ctypes.c_float(momentum), ctypes.c_float(norm.eps), mean,
            inverse_deviation,
        )  # fmt: skip
        ctx.save_for_backward(x, weight, bias, mean, inverse_deviation)
        ctx.kind = kind  # type: ignore[attr-defined]
        return result

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, gradient: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        x, weight, bias, mean, inverse_deviation = ctx.saved_tensors  # type: ignore[attr-defined]
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = torch.empty_like(x)
        of_weight, of_bias = torch.empty_like(weight), torch.empty_like(bias)
        channels = x.shape[1]
        _call(
            "backward", x, ctx.kind,  # type: ignore[attr-defined]
            x.numel() // channels, channels, gradient, x, weight, bias, mean, inverse_deviation,
            of_x, of_weight, of_bias,
        )  # fmt: skip
        return of_x, of_weight, of_bias, None, None, None


@cache
def _library() -> ctypes.CDLL:
    return load_kernels()


def _call(
    name: str,
    like: Tensor,
    kind: tuple[str, float, float],
    rows: int,
    channels: int,
    *arguments: Tensor | ctypes.c_float,
) -> None:
    activation, low, high = kind
    function: Callable[..., int] = getattr(_library(), f"{name}_{_TYPES[like.dtype]}_{activation}")
    short_of_memory = function(
        ctypes.c_int64(rows),
        ctypes.c_int64(channels),
        *(ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else a for a in arguments),
        ctypes.c_float(low),
        ctypes.c_float(high),
        ctypes.c_int(torch.get_num_threads()),
    )
    if short_of_memory:
        raise MemoryError(f"batch norm of {rows} x {channels} values")


def can_fuse(x: Tensor, norm: nn.Module, activation: nn.Module) -> bool:
    """Whether `norm_and_activation` can replace the two modules on ``x``.

    It can for channels-last float32 and bfloat16 on the CPU, with the batch's statistics, or with
    running statistics if no gradient is needed.
    """
    return (
        not torch.compiler.is_compiling()
        and type(norm) is nn.BatchNorm2d
        and any(isinstance(activation, kind) for kind in _ACTIVATIONS)
        and norm.track_running_stats  # else inference uses the batch's statistics, too
        and (norm.training or not _has_gradient(x, norm))
        and x.device.type == "cpu"
        and x.dtype in _TYPES
        and all(
            _is_plain(each, x.shape[1])
            for each in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        )
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.numel() > x.shape[1]  # else PyTorch raises the error
    )


def _has_gradient(x: Tensor, norm: nn.BatchNorm2d) -> bool:
    inputs = (x, norm.weight, norm.bias)
    return torch.is_grad_enabled() and any(each.requires_grad for each in inputs)


def _is_plain(of_channels: Tensor | None, channels: int) -> bool:
    """Whether the kernels can read it: one contiguous float32 per channel."""
    return (
        of_channels is not None
        and of_channels.device.type == "cpu"
        and of_channels.dtype == torch.float32
        and of_channels.is_contiguous()
        and of_channels.numel() == channels
    )


def norm_and_activation(x: Tensor, norm: nn.BatchNorm2d, activation: nn.Module) -> Tensor:
    """Return ``activation(norm(x))``, in one pass over memory instead of PyTorch's two.

    In training, the statistics take one more pass and the backward pass takes two; bf16 is rounded
    once. Results do not depend on the number of threads.

    Args:
        x: float32 or bfloat16 (N, C, H, W) for which `can_fuse` holds; overwritten outside of
            training.
        norm: its running statistics are updated in training, and applied otherwise.
        activation: none (`nn.Identity`), ReLU, ReLU6 or hard-swish.

    Raises:
        NoKernels: there is no C++ compiler (`mobilette.nn.kernels`).
    """
    kind = next(found for each, found in _ACTIVATIONS.items() if isinstance(activation, each))
    if not norm.training:
        return _by_given_statistics(x, norm, kind)
    momentum = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    if momentum is None:  # in PyTorch: a cumulative average
        assert norm.num_batches_tracked is not None
        momentum = 1 / norm.num_batches_tracked.item()
    result: Tensor = _NormAndActivation.apply(  # type: ignore[no-untyped-call]
        x, norm.weight, norm.bias, norm, momentum, kind
    )
    return result


def _by_given_statistics(x: Tensor, norm: nn.BatchNorm2d, kind: tuple[str, float, float]) -> Tensor:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    channels = x.shape[1]
    _call("apply", x, kind, x.numel() // channels, channels, x, x, scale, shift)
    return x
