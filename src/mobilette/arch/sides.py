"""How layers change the side of a map: the only copy of these rules."""

from __future__ import annotations

from mobilette.arch.primitives import (
    AdaptivePoolLayer,
    AnyLayer,
    ConvLayer,
    PoolLayer,
    SubsampleLayer,
)
from mobilette.arch.rows import Conv, Pool
from mobilette.errors import InputError


def output_side(layer: AnyLayer, side: int) -> int:
    """Return the side, in pixels, of the map that ``layer`` makes of a square one of ``side``.

    So the graph of one resolution tells the maps of all others, because strides do not depend on
    the resolution. Layers behind the flattening have no side; there it is passed on.

    Raises:
        InputError: the layer's window does not fit into the map.
    """
    match layer:
        case ConvLayer():
            return convolved_side(layer.name, side, layer)
        case PoolLayer():
            return pooled_side(layer.name, side, layer, layer.padding)
        case SubsampleLayer():
            return subsampled_side(side, layer.stride)
        case AdaptivePoolLayer():
            return layer.shape[1]
        case _:
            return side


def convolved_side(name: str, side: int, conv: Conv | ConvLayer) -> int:
    """Return the side of a convolution's output, in pixels.

    Raises:
        InputError: the kernel does not fit; the message begins with ``name``.
    """
    if conv.padding != "valid":
        return -(-side // conv.stride)  # with odd kernels both kinds of padding give this
    if side < conv.kernel:
        raise _too_small(name, side, conv.kernel)
    return (side - conv.kernel) // conv.stride + 1


def pooled_side(name: str, side: int, pool: Pool | PoolLayer, padding: int) -> int:
    """Return the side of a pool's output, in pixels, as PyTorch defines ``ceil_mode``.

    Raises:
        InputError: the window does not fit; the message begins with ``name``.
    """
    free = side + 2 * padding - pool.kernel
    windows = free // pool.stride + 1
    if pool.ceil_mode:
        steps = -(-free // pool.stride)
        # A window that would begin in the padding behind the image does not count.
        windows = steps + (steps * pool.stride < side + padding)
    if windows < 1:
        raise _too_small(name, side, pool.kernel)
    return windows


def subsampled_side(side: int, stride: int) -> int:
    """Return the side of every ``stride``-th position, in pixels."""
    return -(-side // stride)


def _too_small(name: str, side: int, kernel: int) -> InputError:
    return InputError(
        f"{name}: a window of {kernel}x{kernel} does not fit into the {side}x{side} pixels that "
        "are left there; a larger resolution is needed"
    )
