"""`Network`: the module of any `Arch`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mobilette.arch.arch import Arch
from mobilette.arch.features import features_layer
from mobilette.arch.layers import training_layers
from mobilette.arch.primitives import INPUT
from mobilette.counting.cost import check_memory, cost
from mobilette.nn.convolutions import Conv2d
from mobilette.nn.depthwise import (
    can_convolve,
    depthwise,
    in_autocast,
    is_ours,
    norm_and_depthwise,
)
from mobilette.nn.excite import can_excite, excited
from mobilette.nn.fused_norm import Statistics, can_fuse, new_statistics, norm_and_activation
from mobilette.nn.layers import GlobalAveragePool, build_layer, initialise
from mobilette.nn.max_pool import can_pool, max_pooled
from mobilette.nn.shuffle import can_shuffle, shuffled, shuffled_halves
from mobilette.nn.steps import Step, last_at_stride, steps_of

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
        self._ends = last_at_stride(arch, graph)
        self._steps = steps_of(graph, whole=(*self._ends.values(), self._features))
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

    def sequences(self) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
        """Yield names of enclosing modules, outermost first, and of modules in the innermost.

        In this order they are executed. What the modules of a sequence return is read by the next
        of them only, except what the last returns.
        """
        for step in self._steps:
            yield step.parents, step.names

    def _run(self, x: Tensor, keep: Collection[str] = ()) -> dict[str, Tensor]:
        """Return the outputs of the last layer and of the layers ``keep``, by name."""
        values: dict[str, Tensor] = {INPUT: x}
        unfinished: _Unfinished | None = None  # what the next step's convolution begins with
        for step in self._steps:
            parent = self._at(step.parents)
            first, *others = [parent._modules[name] for name in step.names]
            if step.output in values:  # with the shuffle before it
                continue
            taken = [values[name] for name in step.inputs if unfinished is None]
            for name in step.read:
                if name not in keep:
                    values.pop(name, None)
            if self.fused_norms and self._may_shuffle(taken, first, others):
                values.update(self._shuffled(taken, step, keep))
                continue
            x, statistics = self._first(first, taken, unfinished, others)
            del taken
            unfinished = None
            # If a hook may have kept the output of the convolution, it must not be overwritten.
            if self.fused_norms and others and not first._forward_hooks:
                norm = others[0]
                last = others[1] if len(others) > 1 else _NO_ACTIVATION
                if (
                    isinstance(first, nn.Conv2d)
                    and isinstance(norm, nn.BatchNorm2d)
                    and can_fuse(x, norm, last)
                ):
                    others = others[2:]
                    if not others and self._may_go_on(x, step, keep):
                        unfinished = _Unfinished(x, norm, last)
                        continue
                    x = norm_and_activation(x, norm, last, statistics=statistics)
            for module in others:
                x = self._other(module, x)
            values[step.output] = x
        return values

    def _at(self, parents: Sequence[str]) -> Any:
        parent: Any = self
        for part in parents:
            parent = parent._modules[part]  # several times faster than getattr
        return parent

    def _first(
        self,
        first: nn.Module,
        taken: Sequence[Tensor],
        unfinished: _Unfinished | None,
        others: Sequence[nn.Module],
    ) -> tuple[Tensor, Statistics | None]:
        """Return the output of a step's first module, and its statistics if a norm needs them."""
        if not self.fused_norms or first._forward_hooks:
            return first(*taken), None
        if can_excite(taken, first):
            return excited(*taken), None
        if isinstance(first, nn.MaxPool2d):
            return self._other(first, taken[0]), None
        if not is_ours(first):
            return first(*taken), None
        assert isinstance(first, Conv2d)
        x = in_autocast(taken[0] if unfinished is None else unfinished.x)
        statistics = None
        if others and isinstance(others[0], nn.BatchNorm2d) and others[0].training:
            statistics = new_statistics(x)
        if unfinished is not None:
            _, norm, last = unfinished
            return norm_and_depthwise(x, norm, last, first, statistics=statistics), statistics
        if can_convolve(x, first):
            return depthwise(x, first, statistics=statistics), statistics
        return first(x), None

    def _other(self, module: nn.Module, x: Tensor) -> Tensor:
        if (
            self.fused_norms
            and isinstance(module, nn.MaxPool2d)
            and not module._forward_hooks
            and can_pool(x, module)
        ):
            return max_pooled(x, module)
        result: Tensor = module(x)
        return result

    def _may_shuffle(
        self, taken: Sequence[Tensor], first: nn.Module, others: Sequence[nn.Module]
    ) -> bool:
        """Whether the step is a concatenation and a shuffle that one kernel can compute."""
        return (
            len(others) == 1
            and not (first._forward_hooks or others[0]._forward_hooks)
            and can_shuffle(taken, first, others[0])
        )

    def _shuffled(
        self, taken: Sequence[Tensor], step: Step, keep: Collection[str]
    ) -> dict[str, Tensor]:
        """Return what a shuffle gives by name: its halves, if nothing else is read of it."""
        if not step.halves or step.output in keep or self._have_hooks(step.halves):
            return {step.output: shuffled(*taken)}
        return dict(zip(step.halves, shuffled_halves(*taken), strict=True))

    def _have_hooks(self, names: Sequence[str]) -> bool:
        return any(self.get_submodule(name)._forward_hooks for name in names)

    def _may_go_on(self, x: Tensor, step: Step, keep: Collection[str]) -> bool:
        """Whether the next step's convolution can take the norm of this one with it."""
        if step.follower is None or step.output in keep:
            return False
        parents, name = step.follower
        follower = self._at(parents)._modules[name]
        return not follower._forward_hooks and can_convolve(x, follower, with_norm=True)


class _Unfinished(NamedTuple):
    """The input of a batch norm and an activation that the next convolution computes."""

    x: Tensor
    norm: nn.BatchNorm2d
    activation: nn.Module


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
