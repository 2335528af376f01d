"""Batch norm and activation in one pass, on the CPU."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from mobilette.nn.kernels import call_kernel

# The name that the kernels know, and its bounds.
Kind = tuple[str, float, float]
_ACTIVATIONS: dict[type[nn.Module], Kind] = {
    nn.Identity: ("clamp", -torch.inf, torch.inf),
    nn.ReLU: ("clamp", 0.0, torch.inf),
    nn.ReLU6: ("clamp", 0.0, 6.0),
    nn.Hardswish: ("hard_swish", 0.0, 6.0),
}
TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class Statistics(NamedTuple):
    """The mean of each channel, and its mean squared deviation; float32 (C,)."""

    mean: Tensor
    variance: Tensor


class Settled(NamedTuple):
    """What a batch norm does to each channel, float32 (C,): x * ``scale`` + ``shift``."""

    mean: Tensor
    inverse_deviation: Tensor
    scale: Tensor
    shift: Tensor


def kind_of(activation: nn.Module) -> Kind:
    """Return the kernels' name of ``activation``, one for which `can_fuse` holds."""
    return next(kind for each, kind in _ACTIVATIONS.items() if isinstance(activation, each))


def new_statistics(x: Tensor) -> Statistics:
    """Return room for the statistics of the channels of ``x`` (N, C, H, W)."""
    return Statistics(*x.new_empty(2, x.shape[1], dtype=torch.float32).unbind())


def settle(x: Tensor, norm: nn.BatchNorm2d, statistics: Statistics | None = None) -> Settled:
    """Return what ``norm`` does to ``x`` (N, C, H, W) in training; updates its running statistics.

    ``statistics`` of ``x`` are measured unless they are known.
    """
    rows, channels = x.numel() // x.shape[1], x.shape[1]
    if statistics is None:
        statistics = new_statistics(x)
        call_kernel(f"measure_{TYPES[x.dtype]}", rows, channels, x, *statistics)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    momentum = norm.momentum
    if momentum is None:  # in PyTorch: a cumulative average
        momentum = 1 / norm.num_batches_tracked.item()
    inverse_deviation, scale, shift = x.new_empty(3, channels, dtype=torch.float32).unbind()
    call_kernel(
        "settle_norm", rows, channels, *statistics, norm.weight, norm.bias, norm.running_mean,
        norm.running_var, float(momentum), norm.eps, inverse_deviation, scale, shift,
    )  # fmt: skip
    return Settled(statistics.mean, inverse_deviation, scale, shift)


def gradients_of_norm(
    x: Tensor, gradient: Tensor, settled: Settled, sums: Tensor, kind: Kind, *, out: Tensor
) -> tuple[Tensor, Tensor]:
    """Write the gradient of ``x`` into ``out``; return those of the norm's weight and bias.

    ``gradient`` is that of the activation's output; ``sums``, float64 (C, 2), are of the gradients
    of the norm's output and of their products with ``x - mean``.
    """
    of_weight, of_bias = torch.empty_like(settled.mean), torch.empty_like(settled.mean)
    mean, inverse_deviation, scale, shift = settled
    call_kernel(
        f"give_gradients_{TYPES[x.dtype]}", x.numel() // x.shape[1], x.shape[1], gradient, x, scale,
        shift, mean, inverse_deviation, sums, out, of_weight, of_bias, *kind,
    )  # fmt: skip
    return of_weight, of_bias


class _NormAndActivation(torch.autograd.Function):
    """Keeps only the input for the backward pass, which recomputes the normalised values."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        norm: nn.BatchNorm2d,
        kind: Kind,
        statistics: Statistics | None,
    ) -> Tensor:
        settled = settle(x, norm, statistics)
        result = torch.empty_like(x)
        _apply(x, result, settled.scale, settled.shift, kind)
        ctx.save_for_backward(x, *settled)
        ctx.kind = kind  # type: ignore[attr-defined]
        return result

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, gradient: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        x, *values = ctx.saved_tensors  # type: ignore[attr-defined]
        settled, kind = Settled(*values), ctx.kind  # type: ignore[attr-defined]
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        sums = x.new_empty(x.shape[1], 2, dtype=torch.float64)
        call_kernel(
            f"sum_gradients_{TYPES[x.dtype]}", x.numel() // x.shape[1], x.shape[1], gradient, x,
            settled.scale, settled.shift, settled.mean, sums, *kind,
        )  # fmt: skip
        of_x = torch.empty_like(x)
        return (
            of_x,
            *gradients_of_norm(x, gradient, settled, sums, kind, out=of_x),
            None,
            None,
            None,
        )


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
        and x.dtype in TYPES
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


def norm_and_activation(
    x: Tensor,
    norm: nn.BatchNorm2d,
    activation: nn.Module,
    *,
    statistics: Statistics | None = None,
) -> Tensor:
    """Return ``activation(norm(x))``, in one pass over memory instead of PyTorch's two.

    In training, the statistics take one more pass and the backward pass takes two; bf16 is rounded
    once. Results do not depend on the number of threads.

    Args:
        x: float32 or bfloat16 (N, C, H, W) for which `can_fuse` holds; overwritten outside of
            training.
        norm: its running statistics are updated in training, and applied otherwise.
        activation: none (`nn.Identity`), ReLU, ReLU6 or hard-swish.
        statistics: of ``x``, for training, where they are known already.

    Raises:
        NoKernels: there is no C++ compiler (`mobilette.nn.kernels`).
    """
    kind = kind_of(activation)
    if not norm.training:
        _apply(x, x, *running(norm), kind)
        return x
    result: Tensor = _NormAndActivation.apply(  # type: ignore[no-untyped-call]
        x, norm.weight, norm.bias, norm, kind, statistics
    )
    return result


def running(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the scale and shift of each channel by the running statistics, float32 (C,)."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


def _apply(x: Tensor, out: Tensor, scale: Tensor, shift: Tensor, kind: Kind) -> None:
    rows, channels = x.numel() // x.shape[1], x.shape[1]
    call_kernel(f"apply_{TYPES[x.dtype]}", rows, channels, x, out, scale, shift, *kind)
