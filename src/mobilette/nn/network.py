"""`Network`: the module of any `Arch`."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mobilette.arch.arch import Arch
from mobilette.arch.features import features_layer
from mobilette.arch.layers import training_layers
from mobilette.arch.primitives import INPUT, Layer
from mobilette.counting.cost import check_memory, cost
from mobilette.nn.fused_norm import can_fuse, norm_and_activation
from mobilette.nn.layers import GlobalAveragePool, build_layer, initialise

_NO_ACTIVATION = nn.Identity()


class Network(nn.Module):
    """The network that an `Arch` describes.

    It has a module for each layer of `mobilette.arch.layers.training_layers`, under the layer's
    name. ``forward`` takes normalised images, float (N, C, H, W), and returns logits, float (N,
    classes).

    Attributes:
        fused_norms: whether batch norms and the activations after them are computed together on
            the CPU where `can_fuse` allows it; their hooks are not called then. Requires
            `mobilette.nn.kernels`.

    Raises:
        InputError: the rows of ``arch`` do not fit together.
    """

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        check_memory(arch)  # before any module is built
        self.arch = arch
        self.fused_norms = False
        self.stem, self.rows, self.head = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        graph = training_layers(arch)
        for layer in graph:
            parent: nn.Module = self
            *parts, name = layer.name.split(".")
            for part in parts:
                if not hasattr(parent, part):
                    parent.add_module(part, nn.ModuleDict())
                parent = getattr(parent, part)
            parent.add_module(name, build_layer(layer, arch))
        features = features_layer(arch)
        self._features = features.name
        if len(features.shape) > 1:
            average = OrderedDict(pool=GlobalAveragePool(), flatten=nn.Flatten())
            self.head.add_module("features", nn.Sequential(average))
        self._ends = _last_at_stride(arch, graph)
        self._steps = _steps(graph, whole=(*self._ends.values(), self._features))
        self.apply(initialise)

    def _repr_html_(self) -> str:
        return cost(self.arch)._repr_html_()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes) for normalised images ``x`` (N, C, H, W)."""
        return self._run(x)[self._steps[-1].output]

    def with_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, classes) and features (N, D) for normalised images ``x`` (N, C, H, W).

        The features are those of `mobilette.arch.features.features_layer`.
        """
        values = self._run(x, keep=(self._features,))
        features = values[self._features]
        if "features" in self.head:
            features = self.head["features"](features)
        return values[self._steps[-1].output], features

    def features(self, x: Tensor) -> dict[int, Tensor]:
        """Return the last feature maps at each stride: {2: (N, C, H/2, W/2), 4: ...}."""
        return self.with_maps(x)[1]

    def with_maps(self, x: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Return logits (N, classes) and the maps of `features`, of one pass."""
        values = self._run(x, keep=self._ends.values())
        maps = {stride: values[name] for stride, name in self._ends.items()}
        return values[self._steps[-1].output], maps

    def _run(self, x: Tensor, keep: Collection[str] = ()) -> dict[str, Tensor]:
        """Return the outputs of the last layer and of the layers ``keep``, by name."""
        values = {INPUT: x}
        for parents, names, inputs, output, read in self._steps:
            parent: Any = self
            for part in parents:
                parent = parent._modules[part]  # several times faster than getattr
            first, *others = [parent._modules[name] for name in names]
            taken = [values[name] for name in inputs]
            for name in read:
                if name not in keep:
                    del values[name]
            x = first(*taken)
            del taken
            # If a hook may have kept the output of the convolution, it must not be overwritten.
            if self.fused_norms and others and not first._forward_hooks:
                norm = others[0]
                last = others[1] if len(others) > 1 else _NO_ACTIVATION
                if (
                    isinstance(first, nn.Conv2d)
                    and isinstance(norm, nn.BatchNorm2d)
                    and can_fuse(x, norm, last)
                ):
                    x = norm_and_activation(x, norm, last)
                    others = others[2:]
            for module in others:
                x = module(x)
            values[output] = x
        return values


class _Step(NamedTuple):
    """Modules in sequence.

    Attributes:
        parents: names of the enclosing modules, outermost first.
        names: names of the modules in the innermost.
        inputs: layers, or `INPUT`, that the first module reads.
        output: the last layer.
        read: those of ``inputs`` that no later step reads.
    """

    parents: tuple[str, ...]
    names: tuple[str, ...]
    inputs: tuple[str, ...]
    output: str
    read: tuple[str, ...]


def _steps(graph: Sequence[Layer], *, whole: Collection[str]) -> tuple[_Step, ...]:
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
    return tuple(
        _Step(
            parents=tuple(chain[0].name.split(".")[:-1]),
            names=tuple(layer.name.rpartition(".")[2] for layer in chain),
            inputs=chain[0].inputs,
            output=chain[-1].name,
            read=tuple(name for name in dict.fromkeys(chain[0].inputs) if last_reader[name] == i),
        )
        for i, chain in enumerate(chains)
    )


def _last_at_stride(arch: Arch, graph: Sequence[Layer]) -> dict[int, str]:
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


def build_empty(arch: Arch) -> Network:
    """Return the network on the meta device, without storage for weights."""
    with torch.device("meta"):
        return Network(arch)


@torch.no_grad()
def measure_statistics(network: Network, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of the batch norms by averages over ``batches``.

    For networks whose statistics belong to other weights ("precise BN": Wu and Johnson 2021, arXiv
    2105.07576, section 3). Leaves the network in evaluation mode.

    Args:
        network: changed in place.
        batches: normalised images, float (N, C, H, W).
    """
    network.eval()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # in PyTorch: a cumulative average
        norm.train()
    for batch in batches:
        network(batch)
    for norm in norms:
        norm.momentum = network.arch.norm_momentum
        norm.eval()
