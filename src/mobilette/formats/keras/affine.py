"""Folds a per-channel scale and shift into the preceding or following linear layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilette.arch.primitives import ConvLayer
from mobilette.errors import InputError
from mobilette.formats.file_layers import Builder, Weights

Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Affine:
    """x * scale + shift, float64; one of each per channel, or one for all.

    `put_after` and `put_before` raise `InputError` where folding into the layer is impossible.
    """

    scale: Numbers
    shift: Numbers

    @staticmethod
    def of_norm(arrays: Mapping[str, Weights], epsilon: float) -> Affine:
        """Return a batch norm's map at inference; ``arrays`` are named as in `NORM`."""
        scale = arrays["weight"] / np.sqrt(arrays["running_var"].astype(np.float64) + epsilon)
        return Affine(scale=scale, shift=arrays["bias"] - arrays["running_mean"] * scale)

    @staticmethod
    def of_steps(steps: list[tuple[str, tuple[float, ...]]]) -> Affine:
        """Return the composition of additions, subtractions, multiplications and divisions."""
        scale, shift = np.ones(1), np.zeros(1)
        for name, values in steps:
            numbers = np.asarray(values, np.float64)
            if name == "DIV" and not numbers.all():
                raise InputError("division by 0")
            factor = {"MUL": numbers, "DIV": 1 / numbers if numbers.all() else 1}.get(name, 1)
            change = {"ADD": numbers, "SUB": -numbers}.get(name, 0)
            scale, shift = scale * factor, shift * factor + change
        return Affine(scale=scale, shift=shift)

    def put_after(self, builder: Builder, name: str) -> None:
        """Fold this into the layer ``name`` before it."""
        tensors = builder.layers[name].tensors
        weight = tensors["weight"]
        out = len(weight)
        scale, shift = self._spread(out, name)
        bias = tensors.get("bias", np.zeros(out))
        spread = scale.reshape(-1, *[1] * (weight.ndim - 1))
        put = {"weight": _float32(weight * spread), "bias": _float32(bias * scale + shift)}
        builder.set_tensors(name, put)

    def put_before(self, builder: Builder, name: str) -> None:
        """Fold this into the layer ``name`` behind it, which reads one pixel or a flattened map."""
        layer, tensors = builder.layers[name].layer, builder.layers[name].tensors
        weight = tensors["weight"]
        if isinstance(layer, ConvLayer) and (layer.kernel, layer.groups) != (1, 1):
            raise InputError(f"layer {name!r} follows a batch norm that no convolution has")
        scale, shift = self._spread(weight.shape[1], name)
        spread = scale.reshape(1, -1, *[1] * (weight.ndim - 2))
        bias = tensors.get("bias", np.zeros(len(weight))) + weight.reshape(len(weight), -1) @ shift
        builder.set_tensors(name, {"weight": _float32(weight * spread), "bias": _float32(bias)})

    def _spread(self, count: int, name: str) -> tuple[Numbers, Numbers]:
        """Return scale and shift, repeated for ``count`` channels or pixels of a flattened map."""
        if count % len(self.scale) or count % len(self.shift):
            raise InputError(f"layer {name!r} has {count} channels, its scaling {len(self.scale)}")
        scale, shift = self.scale, self.shift
        return np.repeat(scale, count // len(scale)), np.repeat(shift, count // len(shift))


def _float32(array: Numbers) -> Weights:
    with np.errstate(over="ignore", invalid="ignore"):  # checked for finite values later
        return np.ascontiguousarray(array, np.float32)
