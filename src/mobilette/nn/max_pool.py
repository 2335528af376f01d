"""Max pooling on the CPU, many times as fast as PyTorch's of bf16."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from mobilette.nn.fused_norm import TYPES
from mobilette.nn.kernels import call_kernel

LAST = torch.channels_last
PLACES = 256  # of a window, in a byte


class _MaxPool(torch.autograd.Function):
    """Keeps, of each window, the place of the greatest value."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, pool: nn.MaxPool2d) -> Tensor:
        images, channels, *plane = x.shape
        kernel, stride, padding = _sizes(pool)
        out = [_output(side, kernel, stride, padding, pool.ceil_mode) for side in plane]
        result = torch.empty((images, channels, *out), dtype=x.dtype, memory_format=LAST)
        places = torch.empty_like(result, dtype=torch.uint8)
        shape = (images, channels, *plane, *out, kernel, stride, padding)
        call_kernel(f"max_pool_{TYPES[x.dtype]}", *shape, x, result, places)
        ctx.save_for_backward(places)
        ctx.shape = shape  # type: ignore[attr-defined]
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors  # type: ignore[attr-defined]
        shape: tuple[int, ...] = ctx.shape  # type: ignore[attr-defined]
        gradient = gradient.contiguous(memory_format=LAST)
        of_x = torch.empty(shape[:4], dtype=gradient.dtype, memory_format=LAST)
        call_kernel(f"max_unpool_{TYPES[gradient.dtype]}", *shape, gradient, places, of_x)
        return of_x, None


def _sizes(pool: nn.MaxPool2d) -> tuple[int, int, int]:
    """Return kernel, stride and padding of a pool for which `can_pool` holds."""
    kernel, stride, padding = pool.kernel_size, pool.stride, pool.padding
    assert isinstance(kernel, int)
    assert isinstance(stride, int)
    assert isinstance(padding, int)
    return kernel, stride, padding


def _output(side: int, kernel: int, stride: int, padding: int, ceil: bool) -> int:
    reach = side + 2 * padding - kernel
    out = -(-reach // stride) + 1 if ceil else reach // stride + 1
    # As PyTorch does: no window begins in the padding at the end.
    return out - 1 if ceil and (out - 1) * stride >= side + padding else out


def can_pool(x: Tensor, pool: nn.Module) -> bool:
    """Whether `max_pooled` can replace ``pool`` on ``x`` (N, C, H, W).

    It can for square windows of up to 256 pixels, and float32 or bfloat16, channels last, on the
    CPU.
    """
    if type(pool) is not nn.MaxPool2d or torch.compiler.is_compiling():
        return False
    sizes = (pool.kernel_size, pool.stride, pool.padding)
    if not all(isinstance(size, int) for size in sizes) or pool.dilation != 1:
        return False
    kernel, _, padding = _sizes(pool)
    return (
        kernel**2 <= PLACES
        and 2 * padding <= kernel
        and min(x.shape[-2:]) + 2 * padding >= kernel
        and not pool.return_indices
        and x.numel() > 0
        and x.device.type == "cpu"
        and x.dtype in TYPES
        and x.is_contiguous(memory_format=LAST)
    )


def max_pooled(x: Tensor, pool: nn.MaxPool2d) -> Tensor:
    """Return ``pool(x)`` for ``x`` (N, C, H, W).

    Raises:
        NoKernels: there is no C++ compiler (`mobilette.nn.kernels`).
    """
    result: Tensor = _MaxPool.apply(x, pool)  # type: ignore[no-untyped-call]
    return result
