"""A scale and a shift of each channel, put into the linear layer before or behind them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mobilette.errors import InputError
from mobilette.formats.graph import ConvNode, NormNode, Weights


@dataclass(frozen=True, kw_only=True, eq=False)
class Affine:
    """x * scale + shift, one of each a channel, or one for all; float64."""

    scale: np.ndarray[tuple[int], np.dtype[np.float64]]
    shift: np.ndarray[tuple[int], np.dtype[np.float64]]

    @staticmethod
    def of_norm(norm: NormNode) -> Affine:
        """Return what a batch norm does at inference."""
        scale = norm.scale / np.sqrt(norm.variance.astype(np.float64) + norm.epsilon)
        return Affine(scale=scale, shift=norm.shift - norm.mean * scale)

    @staticmethod
    def of_steps(steps: list[tuple[str, tuple[float, ...]]]) -> Affine:
        """Return what additions, subtractions, multiplications and divisions do, in order."""
        scale, shift = np.ones(1), np.zeros(1)
        for name, values in steps:
            numbers = np.asarray(values, np.float64)
            if name == "DIV" and not numbers.all():
                raise InputError("division by 0")
            factor = {"MUL": numbers, "DIV": 1 / numbers if numbers.all() else 1}.get(name, 1)
            change = {"ADD": numbers, "SUB": -numbers}.get(name, 0)
            scale, shift = scale * factor, shift * factor + change
        return Affine(scale=scale, shift=shift)

    def after(self, node: ConvNode) -> ConvNode:
        """Return ``node`` with this behind it.

        Raises:
            InputError: the numbers are not as many as its channels.
        """
        out = len(node.weight)
        scale, shift = self._spread(out, node.name), self._spread(out, node.name, of_shift=True)
        bias = np.zeros(out) if node.bias is None else node.bias
        return replace(
            node,
            weight=_float32(node.weight * scale[:, None, None, None]),
            bias=_float32(bias * scale + shift),
        )

    def before(self, node: ConvNode) -> ConvNode:
        """Return ``node``, which sees one pixel or a flattened map, with this before it.

        Raises:
            InputError: it reads several pixels at once, or the channels are others.
        """
        each = node.weight.shape[1]
        if node.weight.shape[2:] != (1, 1) or node.groups > 1:
            raise InputError(f"layer {node.name!r} follows a batch norm that no convolution has")
        scale, shift = self._spread(each, node.name), self._spread(each, node.name, of_shift=True)
        bias = np.zeros(len(node.weight)) if node.bias is None else node.bias
        return replace(
            node,
            weight=_float32(node.weight * scale[:, None, None]),
            bias=_float32(bias + node.weight[:, :, 0, 0] @ shift),
        )

    def _spread(
        self, count: int, name: str, *, of_shift: bool = False
    ) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Return the numbers for ``count`` channels; those of a flattened map's pixels repeat."""
        numbers = self.shift if of_shift else self.scale
        if count % len(numbers):
            raise InputError(f"layer {name!r} has {count} channels, its scaling {len(numbers)}")
        return np.tile(numbers, count // len(numbers))


def _float32(array: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Weights:
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found later
        return np.ascontiguousarray(array, np.float32)
