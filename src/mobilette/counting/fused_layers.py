"""The layers of a network as engines execute them: what is fused is one layer.

A convolution takes its batch norm, its activation and a residual addition with it, as ONNX Runtime
and XNNPACK compute them in one pass or two over maps that are still in the cache. Layers are alike
if they have the same shapes: they take the same time, wherever they are.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Annotated, Any, Literal, assert_never, get_args

from mobilette.arch.arch import Arch
from mobilette.arch.editing import merged
from mobilette.arch.layers import layers
from mobilette.arch.primitives import (
    INPUT,
    ActivationLayer,
    AdaptivePoolLayer,
    AddLayer,
    AnyLayer,
    ConcatLayer,
    ConvLayer,
    FlattenLayer,
    LinearLayer,
    NormLayer,
    PoolLayer,
    ScaleLayer,
    Shape,
    ShuffleLayer,
    SliceLayer,
    SubsampleLayer,
)
from mobilette.arch.rows import Activation
from mobilette.limits import CHANNELS, KERNEL, STRIDE, Range
from mobilette.records import Ranged

Kind = Literal[
    "normalise",
    "conv",
    "depthwise",
    "grouped",
    "linear",
    "max_pool",
    "average_pool",
    "mean",
    "average_to",
    "add",
    "scale",
    "concat",
    "slice",
    "shuffle",
    "subsample",
    "activation",
    "norm",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
SIZE = Range(1, 2**31)  # channels, sides, features; features of VGG's first linear layer are many
PAD = Range(-8192, 8192)  # negative where a window leaves the last pixels out


@dataclass(frozen=True, kw_only=True)
class FusedLayer(Ranged):
    """The shapes of one layer of an engine.

    Attributes:
        kind: what it computes; ``mean`` is a global average pool, ``average_to`` one to a
            grid; ``normalise`` maps pixels to the network's input.
        inputs: the shapes that it reads, (channels, height, width) or (features,).
        output: the shape that it writes.
        kernel: of convolutions and pools.
        stride: of convolutions, pools and subsampling.
        groups: of convolutions and shuffles.
        pads: zeros above, left, below and right of the input.
        activation: computed with it.
        added: a residual of the output's shape is added.
        after_add: the activation after that addition.
        begin: the first channel of a slice.
    """

    kind: Kind
    inputs: Annotated[tuple[tuple[int, ...], ...], SIZE]
    output: Annotated[tuple[int, ...], SIZE]
    kernel: Annotated[int, KERNEL] = 1
    stride: Annotated[int, STRIDE] = 1
    groups: Annotated[int, CHANNELS] = 1
    pads: Annotated[tuple[int, ...], PAD] = ()
    activation: Activation = "none"
    added: bool = False
    after_add: Activation = "none"
    begin: Annotated[int, Range(0, CHANNELS.highest)] = 0

    @property
    def madds(self) -> int:
        """Multiply-accumulates, as in `mobilette.cost`."""
        if self.kind in ("conv", "depthwise", "grouped"):
            return prod(self.output) * self.kernel**2 * (self.inputs[0][0] // self.groups)
        return self.output[0] * prod(self.inputs[0]) if self.kind == "linear" else 0

    @property
    def weights(self) -> int:
        """Weights and biases."""
        if self.kind in ("conv", "depthwise", "grouped"):
            return self.output[0] * (self.kernel**2 * (self.inputs[0][0] // self.groups) + 1)
        return self.output[0] * (prod(self.inputs[0]) + 1) if self.kind == "linear" else 0

    @property
    def elements(self) -> int:
        """Elements of the maps that it reads and writes."""
        return sum(map(prod, self.inputs)) + prod(self.output) * (1 + self.added)


@dataclass(frozen=True)
class Step:
    """A fused layer in a network.

    Attributes:
        name: of its last primitive layer.
        inputs: the steps, or ``input``, that it reads; the residual last, if it adds one.
        layer: its shapes.
    """

    name: str
    inputs: tuple[str, ...]
    layer: FusedLayer


@lru_cache(maxsize=256)
def fused_layers(arch: Arch) -> tuple[Step, ...]:
    """Return the steps of ``arch`` as deployed, in order of execution.

    The first maps pixels to the network's input.

    Raises:
        InputError: the rows do not fit together.
    """
    graph = layers(merged(arch))
    readers = Counter(name for layer in graph for name in layer.inputs)
    first = FusedLayer(kind="normalise", inputs=(arch.shape,), output=arch.shape)
    steps = {"normalise": Step("normalise", (INPUT,), first)}
    source = {INPUT: "normalise"}  # of each primitive layer: the step that computes it
    for layer in graph:
        inputs = tuple(source[name] for name in layer.inputs)
        if isinstance(layer, FlattenLayer):
            source[layer.name] = inputs[0]
            continue
        alone = [source[name] for name in layer.inputs if readers[name] == 1 and name != INPUT]
        last = max(alone, key=list(steps).index, default=None)
        step = None if last is None else _joined(layer, steps[last], inputs)
        if step is None:
            maps = tuple(steps[name].layer.output for name in inputs)
            step = Step(layer.name, inputs, _fused_layer(layer, maps))
        else:
            assert last is not None
            del steps[last]
        steps[layer.name] = step
        source[layer.name] = layer.name
    return tuple(steps.values())


def _joined(layer: AnyLayer, step: Step, inputs: tuple[str, ...]) -> Step | None:
    """Return ``step`` with ``layer``, which alone reads it; ``None`` if it stays apart."""
    fused = step.layer
    is_conv = fused.kind in ("conv", "depthwise", "grouped")
    bare = fused.activation == "none" and not fused.added
    match layer:
        case NormLayer() if is_conv and bare:
            return replace(step, name=layer.name)
        case ActivationLayer() if fused.added and fused.after_add == "none":
            return Step(layer.name, step.inputs, replace(fused, after_add=layer.function))
        case ActivationLayer() if bare:
            return Step(layer.name, step.inputs, replace(fused, activation=layer.function))
        case AddLayer() if is_conv and bare and len(inputs) == 2 and inputs[0] != inputs[1]:
            (residual,) = (name for name in inputs if name != step.name)
            return Step(layer.name, (*step.inputs, residual), replace(fused, added=True))
        case _:
            return None


def _fused_layer(layer: AnyLayer, inputs: tuple[Shape, ...]) -> FusedLayer:
    def shaped(kind: Kind, **more: Any) -> FusedLayer:
        return FusedLayer(kind=kind, inputs=inputs, output=layer.shape, **more)

    match layer:
        case ConvLayer():
            kind: Kind = "conv" if layer.groups == 1 else "grouped"
            return shaped(
                "depthwise" if layer.is_depthwise else kind,
                kernel=layer.kernel,
                stride=layer.stride,
                groups=layer.groups,
                pads=_pads(layer, inputs[0]),
            )
        case PoolLayer():
            return shaped(
                "max_pool" if layer.function == "max" else "average_pool",
                kernel=layer.kernel,
                stride=layer.stride,
                pads=_pads(layer, inputs[0]),
            )
        case AdaptivePoolLayer():
            return shaped("mean" if layer.shape[1:] == (1, 1) else "average_to")
        case LinearLayer():
            return shaped("linear")
        case AddLayer():
            return shaped("add")
        case ScaleLayer():
            return shaped("scale")
        case ConcatLayer():
            return shaped("concat")
        case SliceLayer():
            return shaped("slice", begin=layer.begin)
        case ShuffleLayer():
            return shaped("shuffle", groups=layer.groups)
        case SubsampleLayer():
            return shaped("subsample", stride=layer.stride)
        case ActivationLayer():
            return shaped("activation", activation=layer.function)
        case NormLayer():
            return shaped("norm")
        case FlattenLayer():
            raise AssertionError(f"{layer.name} is a view")
        case _:
            assert_never(layer)


def _pads(layer: ConvLayer | PoolLayer, shape: Shape) -> tuple[int, ...]:
    """Return the zeros above, left, below and right with which every window is whole."""
    before, after = [], []
    for side, windows in zip(shape[1:], layer.shape[1:], strict=True):
        start, end = layer.pads(side) if isinstance(layer, ConvLayer) else (layer.padding,) * 2
        reached = (windows - 1) * layer.stride + layer.kernel - start - side
        before.append(start)
        after.append(max(end, reached) if isinstance(layer, ConvLayer) else reached)
    return (*before, *after)
