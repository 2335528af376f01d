"""Finds the first layer at which an artifact and its model differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import inf

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mobilette.arch.arch import Arch
from mobilette.arch.features import features_layer
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ActivationLayer, Layer
from mobilette.artifact.directory import Artifact
from mobilette.compression.folding import fold
from mobilette.data.normalise import Normalise
from mobilette.engines.targets import open_engine
from mobilette.model.model import Model
from mobilette.verification.gate import signal_to_noise

IMAGES = 2
NORMALISE = "normalise"
# fp32: engines differ by 1e-6 to 1e-5 of a layer's largest value.
TOLERANCE = 1e-3
# Rounded values: below the first a layer is wrong, above the second as close as 8 bits allow.
LOWEST_DB, HIGHEST_DB = 5.0, 30.0

Values = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A layer whose output differs from the checkpoint's.

    Attributes:
        layer: its name, or ``normalise`` for the normalisation before the first layer.
        relative: largest difference over the checkpoint's largest absolute value there.
        snr_db: signal-to-noise ratio, in dB.
    """

    layer: str
    relative: float
    snr_db: float


def first_difference(
    artifact: Artifact, model: Model, pixels: NDArray[np.uint8] | None = None
) -> Difference | None:
    """Return the first layer at which ``artifact`` differs from ``model``.

    In fp32 it is the first layer that is off by more than 1e-3 of its largest value. With rounded
    values it is, among layers with a signal-to-noise ratio below 5 dB, the one where the ratio
    falls most: noise grows slowly, a mistake at once.

    The first two of ``pixels``, uint8 (N, C, H, W), are used. They are golden inputs by default,
    which may exceed int8's calibrated ranges; images tell more there. ``None`` means that no layer
    differs or the engine cannot show its layers.

    Raises:
        InputError: the artifact cannot be executed here, or the model has no classifier.
    """
    folded = fold(model)
    pixels = (artifact.golden.inputs if pixels is None else pixels)[:IMAGES]
    tensors = open_engine(artifact).activations(pixels)
    if tensors is None:
        return None
    arch = folded.arch
    theirs = _layer_outputs(folded, pixels)
    contract = artifact.contract
    ends = {contract.output: layers(arch)[-1].name, contract.features: features_layer(arch).name}
    ours = _by_layer(tensors, arch, ends)
    found = [
        _difference(_maker(name, ours, arch), value, theirs[name])
        for name, value in ours.items()
        if name in theirs and value.shape == theirs[name].shape
    ]
    if artifact.contract.precision == "fp32":
        return next((each for each in found if not each.relative <= TOLERANCE), None)
    worst: Difference | None = None
    largest, lowest = 0.0, HIGHEST_DB
    for each in found:
        fall = lowest - each.snr_db
        lowest = min(lowest, each.snr_db)
        if each.snr_db < LOWEST_DB and fall > largest:
            worst, largest = each, fall
    return worst


def _difference(layer: str, ours: Values, theirs: Values) -> Difference:
    off = ours.astype(np.float64) - theirs
    if not np.isfinite(off).all():
        return Difference(layer=layer, relative=inf, snr_db=-inf)
    largest, scale = float(np.abs(off).max()), float(np.abs(theirs).max())
    return Difference(
        layer=layer,
        relative=largest / scale if scale else (inf if largest else 0.0),
        snr_db=signal_to_noise(ours, theirs),
    )


def _by_layer(
    tensors: Mapping[str, Values], arch: Arch, ends: Mapping[str, str]
) -> dict[str, Values]:
    """Return ``tensors`` by layer; ``ends`` has the layers of the model's outputs."""
    order = [NORMALISE, *(layer.name for layer in layers(arch))]
    last: dict[str, Values] = {}
    for tensor, value in tensors.items():
        name = ends.get(tensor, tensor)
        while name not in order and "." in name:
            name = name.rpartition(".")[0]
        last[name] = value
    return {name: last[name] for name in order if name in last}


def _maker(name: str, ours: Mapping[str, Values], arch: Arch) -> str:
    """Return the layer before ``name`` if that is an activation which the engine fused into it."""
    graph: dict[str, Layer] = {layer.name: layer for layer in layers(arch)}
    layer = graph.get(name)
    if isinstance(layer, ActivationLayer) and layer.inputs[0] not in ours:
        return layer.inputs[0]
    return name


@torch.inference_mode()
def _layer_outputs(model: Model, pixels: NDArray[np.uint8]) -> dict[str, Values]:
    outputs: dict[str, Values] = {}

    def keep(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs[name] = output.numpy().copy()  # the activation after it may overwrite it

    names = {layer.name for layer in layers(model.arch)}
    hooks = [
        module.register_forward_hook(partial(keep, name))
        for name, module in model.network.named_modules()
        if name in names
    ]
    try:
        normalised = Normalise(model.preprocess)(torch.from_numpy(pixels))
        outputs[NORMALISE] = normalised.numpy().copy()
        model.network(normalised)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs
