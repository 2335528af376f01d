"""ShuffleNet's concatenation, shuffle and split in one pass, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from mobilette.nn.fused_norm import TYPES
from mobilette.nn.kernels import call_kernel
from mobilette.nn.layers import Concat, ShuffleChannels

LAST = torch.channels_last


class _Shuffle(torch.autograd.Function):
    """The halves of the shuffled map, or the whole."""

    @staticmethod
    def forward(ctx: FunctionCtx, a: Tensor, b: Tensor, split: bool) -> Tensor | tuple[Tensor, ...]:
        images, channels, *plane = a.shape
        if split:
            outputs = torch.empty_like(a), torch.empty_like(b)
        else:
            shape = images, 2 * channels, *plane
            whole = torch.empty(shape, dtype=a.dtype, memory_format=LAST)
            outputs = whole, whole[:, channels:]
        _call("shuffle", a, b, outputs, split=split)
        return outputs if split else outputs[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        left, *right = (each.contiguous(memory_format=LAST) for each in gradients)
        channels = left.shape[1] if right else left.shape[1] // 2
        part = left[:, :channels]
        of_a, of_b = (torch.empty_like(part, memory_format=LAST) for _ in range(2))
        outputs = left, right[0] if right else left[:, channels:]
        _call("unshuffle", of_a, of_b, outputs, split=bool(right))
        return of_a, of_b, None


def _call(name: str, a: Tensor, b: Tensor, outputs: tuple[Tensor, Tensor], *, split: bool) -> None:
    channels = a.shape[1]
    stride = channels if split else 2 * channels
    pixels = a.numel() // channels
    call_kernel(f"{name}_{TYPES[a.dtype]}", pixels, channels, stride, a, b, *outputs)


def can_shuffle(parts: Sequence[Tensor], concat: nn.Module, shuffle: nn.Module) -> bool:
    """Whether `shuffled` and `shuffled_halves` can replace the two modules on ``parts``.

    They can for two parts of the same even number of channels, channels last, on the CPU.
    """
    if len(parts) != 2:
        return False
    a, b = parts
    return (
        not torch.compiler.is_compiling()
        and type(concat) is Concat
        and type(shuffle) is ShuffleChannels
        and shuffle.groups == 2
        and a.shape == b.shape
        and a.shape[1] % 2 == 0
        and a.numel() > 0
        and a.device.type == b.device.type == "cpu"
        and a.dtype == b.dtype
        and a.dtype in TYPES
        and a.is_contiguous(memory_format=LAST)
        and b.is_contiguous(memory_format=LAST)
    )


def shuffled(a: Tensor, b: Tensor) -> Tensor:
    """Return the channels of ``a`` and ``b``, each (N, C, H, W), in turns: (N, 2C, H, W).

    That is ShuffleNet's concatenation and shuffle of two groups.

    Raises:
        NoKernels: there is no C++ compiler (`mobilette.nn.kernels`).
    """
    result: Tensor = _Shuffle.apply(a, b, False)  # type: ignore[no-untyped-call]
    return result


def shuffled_halves(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and the second half of the channels of `shuffled`, each a map of its own."""
    result: tuple[Tensor, Tensor] = _Shuffle.apply(a, b, True)  # type: ignore[no-untyped-call]
    return result
