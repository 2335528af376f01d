"""Our depthwise convolutions against PyTorch's, and against reading and writing their maps once.

    python bench/depthwise.py [--batch 64] [--threads 2] [--rounds 5] [--only mobilenet_v2]

Every depthwise convolution of MobileNet V1, V2, V3, V4 and ShuffleNet V2 at their own resolutions,
forward and backward (both gradients), fp32 and bf16, channels last, in turns in one process: the
best of ``--rounds`` for each side, freed memory kept, results in fresh tensors on both sides. The
limit is the bytes of the maps over the bandwidth of a copy of 256 MiB, read and written, measured
here.

Prints a Markdown row for each shape and pass, then the median and largest ratio to the limit and to
PyTorch's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from torch import Tensor
from torch.nn import functional

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ConvLayer, is_depthwise
from mobilette.nn.convolutions import Conv2d
from mobilette.nn.depthwise import depthwise
from mobilette.nn.kernels import why_no_kernels
from mobilette.training.process import keep_freed_memory, set_threads

if TYPE_CHECKING:
    from bench.contenders import machine
else:
    from contenders import machine

NETWORKS = (
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "mobilenet_v4_conv_small",
    "shufflenet_v2",
)
# Channels, rows, columns, kernel, stride.
Shape = tuple[int, int, int, int, int]


def shapes(arch: Arch) -> Iterator[Shape]:
    """Yield the depthwise convolutions of ``arch``."""
    graph = layers(arch)
    outputs = {layer.name: layer.shape for layer in graph}
    for layer in graph:
        if isinstance(layer, ConvLayer) and is_depthwise(
            layer.groups, layer.in_channels, layer.shape[0]
        ):
            _, rows, columns = outputs[layer.inputs[0]]
            yield layer.in_channels, rows, columns, layer.kernel, layer.stride


def channels_last(*shape: int, dtype: torch.dtype) -> Tensor:
    """Return a random map."""
    return torch.randn(shape).to(dtype, memory_format=torch.channels_last)


def seconds(work: Callable[[], object]) -> float:
    """Return the time of one call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def best_in_turns(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the fastest call of each side, after one more each."""
    for work in sides.values():
        work()
    turns = [{name: seconds(work) for name, work in sides.items()} for _ in range(rounds)]
    return {name: min(turn[name] for turn in turns) for name in sides}


def passes(
    shape: Shape, batch: int, dtype: torch.dtype
) -> Iterator[tuple[str, int, dict[str, Callable[[], object]]]]:
    """Yield forward and backward: the name, the bytes that each map takes once, and the sides."""
    channels, rows, columns, kernel, stride = shape
    padding = kernel // 2
    x = channels_last(batch, channels, rows, columns, dtype=dtype)
    conv = Conv2d(
        channels, channels, kernel, stride=stride, padding=padding, groups=channels, bias=False
    )
    weight = conv.weight.detach().to(dtype)  # what autocast would give PyTorch's

    def theirs() -> Tensor:
        return functional.conv2d(x, weight, None, stride, padding, 1, channels)

    with torch.no_grad():
        y = theirs()
    gradient = torch.randn_like(y)
    leaf = x.clone().requires_grad_()
    kept = depthwise(leaf, conv)

    def ours() -> None:
        with torch.no_grad():
            depthwise(x, conv)

    def our_backward() -> None:
        torch.autograd.grad(kept, (leaf, conv.weight), gradient, retain_graph=True)

    def their_backward() -> None:
        torch.ops.aten.convolution_backward(
            gradient, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], channels,
            [True, True, False],
        )  # fmt: skip

    yield "forward", x.nbytes + y.nbytes, {"ours": ours, "PyTorch": theirs}
    # Read x and the gradient of y, write that of x.
    sides: dict[str, Callable[[], object]] = {"ours": our_backward, "PyTorch": their_backward}
    yield "backward", 2 * x.nbytes + y.nbytes, sides


def bandwidth() -> float:
    """Return the bytes a second of a copy, those read and those written."""
    source = torch.ones(64 * 2**20)
    target = torch.empty_like(source)
    best = best_in_turns({"copy": lambda: target.copy_(source)}, 10)["copy"]
    return 2 * source.nbytes / best


def main(
    batch: Annotated[int, typer.Option()] = 64,
    threads: Annotated[int, typer.Option()] = 0,
    rounds: Annotated[int, typer.Option()] = 5,
    only: Annotated[str, typer.Option()] = "",
) -> None:
    """Print the table."""
    if why := why_no_kernels():
        raise SystemExit(f"the kernels are unavailable: {why}")
    keep_freed_memory()
    used = set_threads(threads or None)
    known = bandwidth()
    print(f"{machine()}, {used} threads, batch {batch}; copies: {known / 1e9:.1f} GB/s\n")
    print("| channels | map | kernel | stride | precision | pass | limit, ms | ours | PyTorch's |")
    print("|--:|---|--:|--:|---|---|--:|--:|--:|")
    archs = [get_arch(name) for name in (only.split(",") if only else NETWORKS)]
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for shape in sorted({shape for arch in archs for shape in shapes(arch)}):
        for dtype, precision in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
            for name, moved, sides in passes(shape, batch, dtype):
                best = best_in_turns(sides, rounds)
                limit = moved / known
                found.setdefault((precision, name), []).append(
                    (best["ours"] / limit, best["ours"] / best["PyTorch"])
                )
                channels, rows, columns, kernel, stride = shape
                print(
                    f"| {channels} | {rows}x{columns} | {kernel} | {stride} | {precision} | {name} "
                    f"| {1e3 * limit:.2f} | {1e3 * best['ours']:.2f} "
                    f"| {1e3 * best['PyTorch']:.2f} |",
                    flush=True,
                )
    print()
    for (precision, name), ratios in found.items():
        to_limit, to_theirs = zip(*ratios, strict=True)
        slower = sum(ratio > 1 for ratio in to_theirs)
        print(
            f"{precision} {name}: {statistics.median(to_limit):.2f} times the limit (median; at "
            f"most {max(to_limit):.2f}), {statistics.median(to_theirs):.2f} PyTorch's (median, "
            f"at most {max(to_theirs):.2f}); slower in {slower} of {len(ratios)}"
        )


if __name__ == "__main__":
    typer.run(main)
