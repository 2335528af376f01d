"""Squeeze-and-excite's product of a map and a factor for each of its channels, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from mobilette.nn.fused_norm import TYPES
from mobilette.nn.kernels import call_kernel
from mobilette.nn.layers import Scale

LAST = torch.channels_last


class _Excite(torch.autograd.Function):
    """The product, whose two gradients are computed in one pass."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, factors: Tensor) -> Tensor:
        ctx.save_for_backward(x, factors)
        return x * factors

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, factors = ctx.saved_tensors  # type: ignore[attr-defined]
        gradient = gradient.contiguous(memory_format=LAST)
        images, channels, height, width = x.shape
        of_x = torch.empty_like(x)
        of_factors = torch.empty(factors.shape, dtype=torch.float32)
        call_kernel(
            f"excite_gradients_{TYPES[x.dtype]}", images, height * width, channels, x, gradient,
            factors.float().contiguous(), of_x, of_factors,
        )  # fmt: skip
        return of_x, of_factors.to(factors.dtype)


def can_excite(parts: Sequence[Tensor], scale: nn.Module) -> bool:
    """Whether `excited` can replace ``scale`` on ``parts``, a map and its channels' factors.

    It can for maps of float32 or bfloat16, channels last, on the CPU.
    """
    if type(scale) is not Scale or torch.compiler.is_compiling():
        return False
    x, factors = parts
    return (
        factors.shape == (*x.shape[:2], 1, 1)
        and x.numel() > 0
        and x.device.type == "cpu"
        and x.dtype == factors.dtype
        and x.dtype in TYPES
        and x.is_contiguous(memory_format=LAST)
    )


def excited(x: Tensor, factors: Tensor) -> Tensor:
    """Return ``x`` (N, C, H, W) times ``factors`` (N, C, 1, 1).

    Raises:
        NoKernels: there is no C++ compiler (`mobilette.nn.kernels`).
    """
    result: Tensor = _Excite.apply(x, factors)  # type: ignore[no-untyped-call]
    return result
