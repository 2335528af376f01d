"""Channels scaled where they are computed, and back where they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mobilette.arch.arch import Arch
from mobilette.arch.channels import ChannelGroup, Place
from mobilette.arch.editing import change_convs
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ConvLayer
from mobilette.arch.rows import Block, Conv, Row
from mobilette.nn.network import Network, build_empty

# Parts, all of their outputs, and inputs of the parts.
Inputs = tuple[Tensor, slice, Tensor]


class Rescaling:
    """The weights of a network in float64, while its channels are scaled.

    Attributes:
        arch: the network, its batch norms folded; every convolution has a bias.
        weights: its state dict, changed in place.
    """

    def __init__(self, network: Network) -> None:
        self.arch = change_convs(network.arch, lambda _, conv: replace(conv, bias=True))
        self.weights: dict[str, Tensor] = {
            name: tensor.detach().double() for name, tensor in network.state_dict().items()
        }
        for layer in layers(self.arch):
            if isinstance(layer, ConvLayer):
                zeros = torch.zeros(layer.shape[0]).double()
                self.weights.setdefault(f"{layer.name}.bias", zeros)
        self._parts = {
            layer.name: layer.groups if isinstance(layer, ConvLayer) else 1
            for layer in layers(network.arch)
        }
        self._positions: dict[tuple[ChannelGroup, Place], Tensor] = {}

    def network(self, arch: Arch | None = None) -> Network:
        """Return the network with the weights as they are now, as ``arch`` if that is given."""
        built = build_empty(arch or self.arch)
        weights = {name: tensor.float().clone() for name, tensor in self.weights.items()}
        built.load_state_dict(weights, assign=True)
        return built.eval()

    def scale(self, group: ChannelGroup, factors: Tensor) -> None:
        """Let the channels of ``group`` be ``factors`` (size,) times what they are, for all."""
        for place, positions in group.places.items():
            if place.side == "through":
                continue
            each = factors.repeat_interleave(len(positions) // group.size)
            view, indices = self._view(place), self._indices(group, place)
            shape = (-1, *(1,) * (view[indices].ndim - 1))
            if place.side == "output":
                view[indices] *= each.reshape(shape)
                self.weights[f"{place.layer}.bias"][indices] *= each
            else:
                view[indices] /= each.reshape(shape)

    def ranges(self, group: ChannelGroup, place: Place) -> Tensor:
        """Return the largest magnitude of the weights of each channel at a place, (size,)."""
        weights: Tensor = self._view(place)[self._indices(group, place)]
        return weights.reshape(group.size, -1).abs().amax(dim=1)

    def shift(self, group: ChannelGroup, amounts: Tensor) -> None:
        """Let the channels of ``group`` be ``amounts`` (size,) less than they are, for all.

        The layers that read them get the difference in their biases.
        """
        for place, positions in group.places.items():
            if place.side == "output":
                self.weights[f"{place.layer}.bias"][torch.tensor(positions)] -= amounts
            elif place.side == "input":
                each = amounts.repeat_interleave(len(positions) // group.size)
                parts, _, _ = indices = self._input_indices(group, place)
                read = self._by_input(place.layer)[indices].sum(dim=2) * each[:, None]
                bias = self.weights[f"{place.layer}.bias"].view(self._parts[place.layer], -1)
                bias.index_add_(0, parts, read)

    def _view(self, place: Place) -> Tensor:
        """Return the weights of a layer such that `_indices` finds those of channels."""
        if place.side == "output":
            return self.weights[f"{place.layer}.weight"]
        return self._by_input(place.layer)

    def _indices(self, group: ChannelGroup, place: Place) -> Tensor | Inputs:
        if place.side == "output":
            return self._tensor(group, place)
        return self._input_indices(group, place)

    def _input_indices(self, group: ChannelGroup, place: Place) -> Inputs:
        positions = self._tensor(group, place)
        each = self.weights[f"{place.layer}.weight"].shape[1]
        return positions // each, slice(None), positions % each

    def _tensor(self, group: ChannelGroup, place: Place) -> Tensor:
        if (group, place) not in self._positions:
            self._positions[group, place] = torch.tensor(group.places[place])
        return self._positions[group, place]

    def _by_input(self, layer: str) -> Tensor:
        """Return a view of the weights, (parts, outputs / parts, inputs / parts, pixels)."""
        weight, parts = self.weights[f"{layer}.weight"], self._parts[layer]
        return weight.view(parts, len(weight) // parts, weight.shape[1], -1)


def widen(arch: Arch, activations: Mapping[str, bool] | None = None) -> Arch:
    """Return ``arch`` with ReLU in the place of ReLU6.

    Args:
        arch: the network.
        activations: whether to do so, by the activation layer's name; all where it is ``None``.
            Those of the hidden layers of a head share one, and are never changed one by one.
    """

    def wanted(name: str) -> bool:
        return activations is None or activations.get(f"{name}.activation", False)

    def change(name: str, conv: Conv) -> Conv:
        if conv.activation == "relu6" and wanted(name):
            return replace(conv, activation="relu")
        return conv

    def row(name: str, row: Row) -> Row:
        if isinstance(row, Block) and row.activation == "relu6" and wanted(name):
            return replace(row, activation="relu")
        return row

    arch = change_convs(arch, change)
    rows = tuple(row(f"rows.{number}", each) for number, each in enumerate(arch.rows))
    return replace(arch, rows=rows)
