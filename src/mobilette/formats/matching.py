"""Matches a file's network with an `Arch`.

Their layers are compared side by side in order of execution: kinds, kernels, strides, channels and
connections must be equal. Bias, batch norm, activation, padding and epsilon of a convolution, and
the padding of a pool between rows, are taken from the file into the returned `Arch`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from mobilette.arch import primitives
from mobilette.arch.arch import Arch
from mobilette.arch.editing import change_convs
from mobilette.arch.layers import layers
from mobilette.arch.primitives import INPUT, AnyLayer, Shape
from mobilette.arch.rows import Activation, Block, Conv, Pool, PoolLinear, Row
from mobilette.errors import InputError
from mobilette.formats.file_layers import FileLayer, FileNetwork

KINDS: dict[type[AnyLayer], str] = {
    primitives.ConvLayer: "a convolution",
    primitives.LinearLayer: "a convolution",
    primitives.NormLayer: "a batch norm",
    primitives.ActivationLayer: "an activation",
    primitives.PoolLayer: "a pool",
    primitives.AdaptivePoolLayer: "an average over the whole map",
    primitives.AddLayer: "a sum",
    primitives.ConcatLayer: "a concatenation",
    primitives.ScaleLayer: "a product",
    primitives.SliceLayer: "a part of the channels",
    primitives.ShuffleLayer: "a channel shuffle",
    primitives.SubsampleLayer: "a subsampling",
}


def match(network: FileNetwork, arch: Arch) -> tuple[Arch, dict[str, Tensor], tuple[str, ...]]:
    """Return ``arch`` with the file's details, its weights, and unused convolutions of the file."""
    try:
        return _Walk(network, arch).run()
    except InputError as error:
        raise InputError(f"{network.where}: {error}") from None


class _Walk:
    """The file's layers matched with ours so far.

    Attributes:
        at: our layer to the file's layer with the same output.
        found: our layer to the file's convolution, linear layer, pool or join.
        norms: our convolution to the file's batch norm behind it.
        functions: our activation layer to the file's activation.
    """

    def __init__(self, network: FileNetwork, arch: Arch) -> None:
        self.network, self.arch = network, arch
        self.theirs = {layer.name: layer for layer in network.layers}
        self.readers: defaultdict[str, list[FileLayer]] = defaultdict(list)
        for layer in network.layers:
            for name in dict.fromkeys(layer.layer.inputs):
                self.readers[name].append(layer)
        self.at = {INPUT: INPUT}
        self.found: dict[str, FileLayer] = {}
        self.norms: dict[str, FileLayer] = {}
        self.functions: dict[str, Activation] = {}

    def run(self) -> tuple[Arch, dict[str, Tensor], tuple[str, ...]]:
        ours = layers(self.arch)
        for layer in ours:
            self.follow(layer)
        last, output = ours[-1].name, self.network.output
        if self.at[last] != output:
            before = self.theirs[output].layer if output in self.theirs else None
            if isinstance(before, primitives.ActivationLayer) and before.inputs == (self.at[last],):
                raise _ends_in(self.at[last], before.function, last, "none")
            raise InputError(f"{output!r} comes after the end of {self.arch.name}")
        spelled = self.spelled()
        self.check_shapes(spelled)
        taken = {layer.name for layer in self.found.values()}
        kinds = primitives.ConvLayer | primitives.LinearLayer
        left = [x.name for x in self.network.layers if isinstance(x.layer, kinds)]
        return spelled, self.weights(spelled), tuple(name for name in left if name not in taken)

    def shape(self, name: str) -> Shape:
        return self.network.shape if name == INPUT else self.theirs[name].layer.shape

    def follow(self, layer: AnyLayer) -> None:
        """Find the file's layer for ours."""
        source = self.at[layer.inputs[0]]
        match layer:
            case primitives.FlattenLayer():
                self.at[layer.name] = source
            case primitives.NormLayer() if layer.name.removesuffix("norm") + "conv" in self.found:
                self.at[layer.name] = source
            case primitives.ActivationLayer():
                self.at[layer.name] = self.activation(layer, source)
            case primitives.AdaptivePoolLayer() if self.averages_nothing(layer, source):
                self.at[layer.name] = source
            case _:
                self.find(layer, tuple(self.at[name] for name in layer.inputs))

    def averages_nothing(self, ours: primitives.AdaptivePoolLayer, source: str) -> bool:
        """Whether the map is one pixel, or VGG's grid, and the file has no pool there."""
        pools = (
            isinstance(reader.layer, primitives.AdaptivePoolLayer)
            for reader in self.readers[source]
        )
        return ours.shape[1:] == self.shape(source)[1:] and not any(pools)

    def activation(self, ours: primitives.ActivationLayer, source: str) -> str:
        readers = self.readers[source]
        first = readers[0].layer if readers else None
        if isinstance(first, primitives.NormLayer):
            raise InputError(f"{first.name!r} is a second batch norm, behind {source!r}")
        if not isinstance(first, primitives.ActivationLayer):
            raise _ends_in(source, "none", ours.inputs[0], ours.function)
        self.alone(first.name, source)
        self.functions[ours.name] = first.function
        return first.name

    def alone(self, name: str, source: str) -> None:
        """Raise `InputError` unless ``name`` is the only layer that reads ``source``."""
        if len(self.readers[source]) > 1:
            raise InputError(f"layer {name!r} follows {source!r} in a way that is not supported")

    def find(self, ours: AnyLayer, sources: tuple[str, ...]) -> None:
        taken = {layer.name for layer in self.found.values()}
        candidates = [x for x in self.readers[sources[0]] if x.name not in taken]
        faults: list[tuple[bool, int, str]] = []
        for candidate in candidates:
            fault = self.differs(ours, candidate, sources)
            if not fault and candidate.fault:
                raise InputError(candidate.fault)
            if not fault:
                self.take(ours, candidate)
                return
            alike = KINDS[type(ours)] == KINDS[type(candidate.layer)]
            faults.append((not alike, len(faults), fault))
        if not faults:
            raise InputError(f"ends at {sources[0]!r}, before {ours.name} of {self.arch.name}")
        raise InputError(min(faults)[2])

    def take(self, ours: AnyLayer, theirs: FileLayer) -> None:
        self.found[ours.name] = theirs
        self.at[ours.name] = theirs.name
        norm = next(
            (x for x in self.readers[theirs.name] if isinstance(x.layer, primitives.NormLayer)),
            None,
        )
        if norm is None:
            return
        self.alone(norm.name, theirs.name)
        if not isinstance(ours, primitives.ConvLayer):
            raise InputError(f"{norm.name!r} is a batch norm, but {ours.name} can have none")
        self.norms[ours.name] = norm
        self.at[ours.name] = norm.name

    def differs(self, ours: AnyLayer, theirs: FileLayer, sources: tuple[str, ...]) -> str:
        """Return the difference between two layers, or ""."""
        layer = theirs.layer
        if isinstance(layer, primitives.ActivationLayer):
            return str(_ends_in(sources[0], layer.function, _unit(ours.inputs[0]), "none"))
        if KINDS[type(ours)] != KINDS[type(layer)]:
            return (
                f"{theirs.name!r} is {KINDS[type(layer)]} where {self.arch.name} has "
                f"{KINDS[type(ours)]} ({ours.name})"
            )
        ordered = isinstance(ours, primitives.ConcatLayer)
        if layer.inputs != sources if ordered else Counter(layer.inputs) != Counter(sources):
            read, wanted = (" and ".join(map(repr, names)) for names in (layer.inputs, sources))
            return f"{theirs.name!r} reads {read} where {wanted} should be ({ours.name})"
        if (
            isinstance(ours, primitives.LinearLayer)
            and isinstance(layer, primitives.ConvLayer)
            and prod(layer.shape[1:]) > 1
        ):
            return f"{theirs.name!r} makes a map, but {ours.name} reads one pixel"
        mine, other = _words(ours), _words(layer)
        if isinstance(layer, primitives.PoolLayer) and isinstance(ours, primitives.PoolLayer):
            is_row = ours.name.count(".") == 1  # whose padding can be the file's
            if is_row and layer.padding in (0, primitives.symmetric_padding(layer.kernel)):
                other = _words(replace(layer, padding=ours.padding))
        return "" if mine == other else f"{theirs.name!r} is {other}, but {ours.name} is {mine}"

    def spelled(self) -> Arch:
        """Return the Arch with the file's biases, batch norms, activations and padding."""

        def change(name: str, conv: Conv) -> Conv:
            ours = f"{name}.conv"
            layer = self.found[ours].layer
            padding = conv.padding
            if isinstance(layer, primitives.ConvLayer):
                sides = self.shape(layer.inputs[0])[1:]
                usual = replace(layer, padding=conv.padding)
                # With stride 1, symmetric padding equals TensorFlow's.
                alike = all(usual.pads(side) == layer.pads(side) for side in sides)
                if not alike or 1 not in (conv.stride, conv.kernel):
                    padding = layer.padding
            return replace(
                conv,
                # Exporters drop a bias of zeros
                bias="bias" in self.found[ours].tensors or name == "head.classifier",
                norm="batch" if ours in self.norms else "none",
                activation=self.functions.get(f"{name}.activation", "none"),
                padding=padding,
            )

        rows = tuple(self.spelled_row(f"rows.{i}", row) for i, row in enumerate(self.arch.rows))
        head = self.arch.head
        if isinstance(head, PoolLinear) and head.hidden:
            functions = {
                self.functions[f"head.hidden.{n}.activation"] for n in range(len(head.hidden))
            }
            if len(functions) > 1:
                listed = " and ".join(sorted(functions))
                raise InputError(f"its hidden layers have different activations, {listed}")
            head = replace(head, activation=functions.pop())
        epsilons = Counter(norm.epsilon for norm in self.norms.values())
        epsilon = epsilons.most_common(1)[0][0] if epsilons else self.arch.norm_epsilon
        arch = replace(self.arch, rows=rows, head=head, norm_epsilon=epsilon)
        return change_convs(arch, change)

    def spelled_row(self, name: str, row: Row) -> Row:
        """Return a block with the file's activation, or a pool with its padding."""
        if isinstance(row, Block):
            return replace(row, activation=self.functions.get(f"{name}.activation", "none"))
        theirs = self.found[name].layer if isinstance(row, Pool) else None
        if not isinstance(row, Pool) or not isinstance(theirs, primitives.PoolLayer):
            return row
        ours = next(layer for layer in layers(self.arch) if layer.name == name)
        if isinstance(ours, primitives.PoolLayer) and theirs.padding == ours.padding:
            side = self.shape(theirs.inputs[0])[1]
            if primitives.output_side(ours, side) == theirs.shape[1]:
                return row
        return replace(
            row,
            padding="symmetric" if theirs.padding else "valid",
            ceil_mode=theirs.ceil_mode,
        )

    def check_shapes(self, spelled: Arch) -> None:
        """Raise `InputError` unless all maps have the file's sizes."""
        for ours in layers(spelled):
            theirs = self.found.get(ours.name)
            if theirs is None or len(ours.shape) == 1:
                continue
            mine, other = ours.shape[1], theirs.layer.shape[1]
            if mine != other:
                raise InputError(
                    f"{theirs.name!r} makes maps of {other}x{other} pixels, but {ours.name} of "
                    f"{mine}x{mine}"
                )

    def weights(self, spelled: Arch) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for layer in layers(spelled):
            if isinstance(layer, primitives.ConvLayer | primitives.LinearLayer):
                theirs = self.found[layer.name].tensors
                weight = torch.tensor(theirs["weight"])
                sides = (1, 1) if weight.ndim == 2 else tuple(weight.shape[2:])
                linear = isinstance(layer, primitives.LinearLayer)
                shape = (len(weight), -1) if linear else (*weight.shape[:2], *sides)
                tensors[f"{layer.name}.weight"] = weight.reshape(shape)
                if "bias" in theirs:
                    tensors[f"{layer.name}.bias"] = torch.tensor(theirs["bias"])
                elif isinstance(layer, primitives.LinearLayer) or layer.bias:
                    tensors[f"{layer.name}.bias"] = torch.zeros(len(weight))
            elif isinstance(layer, primitives.NormLayer):
                norm = self.norms.get(layer.inputs[0]) or self.found[layer.name]
                tensors |= norm_tensors(layer.name, norm, spelled)
        return tensors


def norm_tensors(name: str, norm: FileLayer, arch: Arch) -> dict[str, Tensor]:
    """Return the tensors of the batch norm ``name``."""
    tensors = dict(norm.tensors)
    # An epsilon that differs from the rest is absorbed by the variance.
    variance = tensors["running_var"]
    tensors["running_var"] = variance + variance.dtype.type(norm.epsilon - arch.norm_epsilon)
    read = {f"{name}.{key}": torch.tensor(array) for key, array in tensors.items()}
    return read | {f"{name}.num_batches_tracked": torch.tensor(0)}


def _ends_in(theirs: str, function: str, ours: str, usual: str) -> InputError:
    return InputError(f"{theirs!r} ends in activation {function!r}, but {_unit(ours)} in {usual!r}")


def _unit(name: str) -> str:
    return name.removesuffix(".norm")


def _words(layer: AnyLayer) -> str:
    """Describe everything about a layer that must be equal."""
    match layer:
        case primitives.ConvLayer():
            kind = f"{layer.groups} groups of" if layer.groups > 1 else "full"
            kind = "depthwise" if layer.is_depthwise else kind
            return (
                f"{kind} {layer.kernel}x{layer.kernel}, stride {layer.stride}, "
                f"{layer.in_channels} to {layer.shape[0]} channels"
            )
        case primitives.LinearLayer():
            return f"full 1x1, stride 1, {layer.in_features} to {layer.shape[0]} channels"
        case primitives.PoolLayer():
            window = f"{layer.kernel}x{layer.kernel}, stride {layer.stride}"
            return f"the {layer.function} of {window}, padding {layer.padding}"
        case primitives.SliceLayer():
            return f"channels {layer.begin} to {layer.end}"
        case primitives.ShuffleLayer():
            return f"a channel shuffle in {layer.groups} groups"
        case primitives.SubsampleLayer():
            return f"every {layer.stride}. pixel with {layer.new_channels} channels of zeros"
    return KINDS[type(layer)]
