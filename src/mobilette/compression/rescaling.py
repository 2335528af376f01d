"""Channels scaled where they are computed and scaled back where they are read."""

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
from mobilette.model.model import Model

# Convolution group, all of its outputs, inputs within the group.
Inputs = tuple[Tensor, slice, Tensor]


class Rescaling:
    """A model's weights in float64 while its channels are scaled.

    Attributes:
        arch: with batch norms folded and a bias in every convolution.
        weights: state dict, changed in place.
    """

    def __init__(self, model: Model) -> None:
        self._source = model
        self.arch = change_convs(model.arch, lambda _, conv: replace(conv, bias=True))
        self.weights: dict[str, Tensor] = {
            name: tensor.detach().double() for name, tensor in model.weights.items()
        }
        self._groups: dict[str, int] = {}
        for layer in layers(self.arch):
            self._groups[layer.name] = layer.groups if isinstance(layer, ConvLayer) else 1
            if isinstance(layer, ConvLayer):
                zeros = torch.zeros(layer.shape[0]).double()
                self.weights.setdefault(f"{layer.name}.bias", zeros)
        self._positions: dict[tuple[ChannelGroup, Place], Tensor] = {}

    def model(self, arch: Arch | None = None) -> Model:
        """Return the model with the current weights, as ``arch`` if given."""
        weights = {name: tensor.float().clone() for name, tensor in self.weights.items()}
        return replace(self._source, arch=arch or self.arch, weights=weights)

    def scale(self, group: ChannelGroup, factors: Tensor) -> None:
        """Multiply the channels of ``group`` by ``factors`` (size,); readers divide by them."""
        for place, positions in group.places.items():
            if place.side == "through":
                continue
            each = factors.repeat_interleave(len(positions) // group.size)
            view, indices = self._at(group, place)
            shape = (-1, *(1,) * (view[indices].ndim - 1))
            if place.side == "output":
                view[indices] *= each.reshape(shape)
                self.weights[f"{place.layer}.bias"][indices] *= each
            else:
                view[indices] /= each.reshape(shape)

    def ranges(self, group: ChannelGroup, place: Place) -> Tensor:
        """Return the largest magnitude of each channel's weights at a place, (size,)."""
        view, indices = self._at(group, place)
        largest: Tensor = view[indices].reshape(group.size, -1).abs().amax(dim=1)
        return largest

    def shift(self, group: ChannelGroup, amounts: Tensor) -> None:
        """Subtract ``amounts`` (size,) from a group's channels; the readers' biases compensate."""
        for place, positions in group.places.items():
            if place.side == "output":
                self.weights[f"{place.layer}.bias"][torch.tensor(positions)] -= amounts
            elif place.side == "input":
                each = amounts.repeat_interleave(len(positions) // group.size)
                groups, _, _ = indices = self._input_indices(group, place)
                read = self._by_input(place.layer)[indices].sum(dim=2) * each[:, None]
                bias = self.weights[f"{place.layer}.bias"].view(self._groups[place.layer], -1)
                bias.index_add_(0, groups, read)

    def _at(self, group: ChannelGroup, place: Place) -> tuple[Tensor, Tensor | Inputs]:
        """Return a view of a layer's weights, and where the group's channels are in it."""
        if place.side == "output":
            return self.weights[f"{place.layer}.weight"], self._tensor(group, place)
        return self._by_input(place.layer), self._input_indices(group, place)

    def _input_indices(self, group: ChannelGroup, place: Place) -> Inputs:
        positions = self._tensor(group, place)
        each = self.weights[f"{place.layer}.weight"].shape[1]
        return positions // each, slice(None), positions % each

    def _tensor(self, group: ChannelGroup, place: Place) -> Tensor:
        if (group, place) not in self._positions:
            self._positions[group, place] = torch.tensor(group.places[place])
        return self._positions[group, place]

    def _by_input(self, layer: str) -> Tensor:
        """Return a view of the weights, (groups, outputs / groups, inputs / groups, kernel)."""
        weight, groups = self.weights[f"{layer}.weight"], self._groups[layer]
        return weight.view(groups, len(weight) // groups, weight.shape[1], -1)


def widen(arch: Arch, activations: Mapping[str, bool] | None = None) -> Arch:
    """Return ``arch`` with ReLU in place of ReLU6: in all layers, or only in ``activations``.

    ``activations`` maps names of activation layers to whether to change them. Hidden layers of a
    head share one activation, which only ``None`` changes.
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
