"""Mult-adds of a network at any setting of its knobs, without building it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from mobilette.arch.knobs import Knobs
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ConvLayer, LinearLayer
from mobilette.counting.cost import layer_madds


class _Width(NamedTuple):
    """A channel count: a share of each knob's count, and ``others`` that stay."""

    shares: tuple[tuple[int, float], ...]
    others: int

    def at(self, counts: Sequence[int]) -> float:
        return self.others + sum(share * counts[knob] for knob, share in self.shares)


class _Term(NamedTuple):
    """The mult-adds of a layer: ``each`` times the product of its ``widths``."""

    each: float
    widths: list[_Width]

    def madds(self, counts: Sequence[int]) -> float:
        return self.each * prod(width.at(counts) for width in self.widths)


class KnobMadds:
    """The mult-adds that `mobilette.cost` counts for the network that `Knobs.set` returns."""

    def __init__(self, knobs: Knobs) -> None:
        full = [knob.size for knob in knobs]
        self._terms: list[_Term] = []
        self._read_by: defaultdict[int, list[_Term]] = defaultdict(list)
        for layer in layers(knobs.arch):
            if not isinstance(layer, ConvLayer | LinearLayer):
                continue
            depthwise = isinstance(layer, ConvLayer) and layer.is_depthwise
            widths = []
            for name in (layer.name,) if depthwise else (layer.name, layer.inputs[0]):
                parts, others = knobs.parts(name)
                widths.append(
                    _Width(tuple((k, float(share)) for k, share in parts.items()), others)
                )
            each = layer_madds(layer) / prod(width.at(full) for width in widths)
            term = _Term(each, widths)
            self._terms.append(term)
            for knob in {knob for width in widths for knob, _ in width.shares}:
                self._read_by[knob].append(term)

    def total(self, counts: Sequence[int]) -> int:
        """Return the mult-adds of the network with ``counts`` channels, one number per knob."""
        return round(sum(term.madds(counts) for term in self._terms))

    def saved(self, counts: Sequence[int], knob: int, count: int) -> int:
        """Return how many mult-adds are saved by changing ``knob`` from its count to ``count``."""
        other = [*counts[:knob], count, *counts[knob + 1 :]]
        return round(sum(term.madds(counts) - term.madds(other) for term in self._read_by[knob]))
