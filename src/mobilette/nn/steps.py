"""The order in which a network's modules are executed, and who reads what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

from mobilette.arch.arch import Arch
from mobilette.arch.primitives import ConvLayer, Layer, SliceLayer, is_depthwise


class Step(NamedTuple):
    """Modules in sequence.

    Attributes:
        parents: names of the enclosing modules, outermost first.
        names: names of the modules in the innermost.
        inputs: layers, or `INPUT`, that the first module reads.
        output: the last layer.
        read: those of ``inputs`` that no later step reads.
        follower: the depthwise convolution that alone reads ``output`` and begins the next step.
        halves: the layers that alone read ``output``, and return its first and its second half.
    """

    parents: tuple[str, ...]
    names: tuple[str, ...]
    inputs: tuple[str, ...]
    output: str
    read: tuple[str, ...]
    follower: tuple[tuple[str, ...], str] | None
    halves: tuple[str, ...]


def steps_of(graph: Sequence[Layer], *, whole: Collection[str]) -> tuple[Step, ...]:
    """Return the steps of ``graph``; each layer of ``whole`` ends one."""
    readers = Counter(name for layer in graph for name in layer.inputs)
    chains: list[list[Layer]] = []
    for layer in graph:
        before = chains[-1][-1] if chains else None
        if (
            before is not None
            and before.name not in whole
            and layer.inputs == (before.name,)
            and readers[before.name] == 1
            and layer.name.rpartition(".")[0] == before.name.rpartition(".")[0]
        ):
            chains[-1].append(layer)
        else:
            chains.append([layer])
    last_reader = {name: i for i, chain in enumerate(chains) for name in chain[0].inputs}
    steps = []
    for i, chain in enumerate(chains):
        *parents, _ = chain[0].name.split(".")
        steps.append(
            Step(
                parents=tuple(parents),
                names=tuple(layer.name.rpartition(".")[2] for layer in chain),
                inputs=chain[0].inputs,
                output=chain[-1].name,
                read=tuple(x for x in dict.fromkeys(chain[0].inputs) if last_reader[x] == i),
                follower=_follower(chain[-1].name, chains[i + 1 : i + 2], readers),
                halves=_halves(chain[-1], chains[i + 1 : i + 3], readers),
            )
        )
    return tuple(steps)


def _follower(
    output: str, after: Sequence[Sequence[Layer]], readers: Counter[str]
) -> tuple[tuple[str, ...], str] | None:
    """Return the parents and name of a depthwise convolution that is next and alone reads it."""
    for layer in (chain[0] for chain in after):
        if (
            isinstance(layer, ConvLayer)
            and layer.inputs == (output,)
            and readers[output] == 1
            and is_depthwise(layer.groups, layer.in_channels, layer.shape[0])
        ):
            *parents, name = layer.name.split(".")
            return tuple(parents), name
    return None


def _halves(
    layer: Layer, after: Sequence[Sequence[Layer]], readers: Counter[str]
) -> tuple[str, ...]:
    """Return the names of the next two layers if they alone read ``layer`` and split it evenly."""
    half = layer.shape[0] // 2
    parts = [chain[0] for chain in after if len(chain) == 1]
    ends = [(each.begin, each.end) for each in parts if isinstance(each, SliceLayer)]
    alone = readers[layer.name] == 2 and all(each.inputs == (layer.name,) for each in parts)
    if alone and ends == [(0, half), (half, 2 * half)]:
        return tuple(each.name for each in parts)
    return ()


def last_at_stride(arch: Arch, graph: Sequence[Layer]) -> dict[int, str]:
    """Return the last layer of stem and rows at each stride."""
    last: dict[str, str] = {}
    for layer in graph:
        parts = layer.name.split(".")
        last[".".join(parts[: 1 if parts[0] == "stem" else 2])] = layer.name
    stride = arch.stem.stride
    ends = {stride: last["stem"]}
    for number, row in enumerate(arch.rows):
        stride *= row.stride
        if (name := f"rows.{number}") in last:
            ends[stride] = last[name]
    return ends
