"""Mult-adds of a network at any setting of its knobs, without building it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from mobilette.arch.knobs import Knobs
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ConvLayer, LinearLayer
from mobilette.counting.cost import layer_madds


@dataclass(frozen=True, kw_only=True)
class _Width:
    """A channel count: a share of each knob's count, and ``others`` that stay."""

    shares: tuple[tuple[int, float], ...]
    others: int

    def at(self, counts: Sequence[int]) -> float:
        return self.others + sum(share * counts[knob] for knob, share in self.shares)


@dataclass(frozen=True, kw_only=True)
class _Term:
    """The mult-adds of a layer: ``each`` times the product of its ``widths``."""

    each: float
    widths: tuple[_Width, ...]

    def madds(self, counts: Sequence[int]) -> float:
        product = self.each
        for width in self.widths:
            product *= width.at(counts)
        return product


class KnobMadds:
    """What `mobilette.counting.cost` counts for the network that `Knobs.set` returns."""

    def __init__(self, knobs: Knobs) -> None:
        full = [knob.size for knob in knobs]
        self._layers: list[_Term] = []
        self._read_by: defaultdict[int, list[_Term]] = defaultdict(list)
        for layer in layers(knobs.arch):
            if not isinstance(layer, ConvLayer | LinearLayer):
                continue
            depthwise = isinstance(layer, ConvLayer) and layer.is_depthwise
            names = (layer.name,) if depthwise else (layer.name, layer.inputs[0])
            widths = []
            for name in names:
                parts, others = knobs.parts(name)
                shares = tuple((knob, float(share)) for knob, share in parts.items())
                widths.append(_Width(shares=shares, others=others))
            each = float(layer_madds(layer))
            for width in widths:
                each /= width.at(full)
            counted = _Term(each=each, widths=tuple(widths))
            self._layers.append(counted)
            for knob in {knob for width in widths for knob, _ in width.shares}:
                self._read_by[knob].append(counted)

    def total(self, counts: Sequence[int]) -> int:
        """Return the mult-adds of the network with ``counts`` channels, one number per knob."""
        return round(sum(layer.madds(counts) for layer in self._layers))

    def saved(self, counts: Sequence[int], knob: int, count: int) -> int:
        """Return how many mult-adds are saved by changing ``knob`` from its count to ``count``."""
        other = [*counts[:knob], count, *counts[knob + 1 :]]
        return round(sum(layer.madds(counts) - layer.madds(other) for layer in self._read_by[knob]))
