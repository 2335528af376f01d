"""Keras 3's layout of weights without a topology: ``layers/functional/layers/conv2d_3/vars/0``.

Layers are addressed by class and number, so layers of one class are in order, and nothing tells how
those of different classes follow each other: the network's own order does (`match_in_order`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mobilette.errors import InputError
from mobilette.formats.keras.weights import PARAMETERS, LayerWeights

# Class to its kind and its place among classes of that kind
CLASSES = {
    "conv2d": ("Conv2D", "kernel"),
    "dense": ("Dense", "kernel"),
    "depthwise_conv2d": ("DepthwiseConv2D", "depthwise"),
    "batch_normalization": ("BatchNormalization", "norm"),
}
PATH = re.compile(rf"(?:(.*)/)?({'|'.join(CLASSES)})(?:_(\d+))?")


def in_order_of_kind(layers: Sequence[LayerWeights], *, where: str) -> list[LayerWeights]:
    """Return layers of kernels, of depthwise kernels and of batch norms, each kind in order.

    Raises:
        InputError: a layer is none of these, or those of a class lie in several models, which may
            stand in any order.
    """
    found: list[tuple[str, int, LayerWeights]] = []
    models: dict[str, str] = {}
    for layer in layers:
        path = PATH.fullmatch(layer.name)
        if path is None:
            raise InputError(
                f"{where}: weights without a topology, and a layer at {layer.name!r:.80}, whose "
                "class that does not tell; save the whole model: model.save('model.keras')"
            )
        model, name, number = path[1] or "", path[2], int(path[3] or 0)
        if models.setdefault(name, model) != model:
            raise InputError(
                f"{where}: weights without a topology, and layers {name!r} in several models, "
                "whose order is not known; save the whole model: model.save('model.keras')"
            )
        kind, queue = CLASSES[name]
        arrays = list(layer.parameters.values())
        names = PARAMETERS[kind]
        if len(arrays) > len(names) or (queue == "norm" and len(arrays) < len(names)):
            raise InputError(
                f"{where}: {layer.name!r} has {len(arrays)} arrays; {', '.join(names)} are expected"
            )
        named = dict(zip(names, arrays, strict=False))
        found.append((name, number, LayerWeights(name=layer.name, parameters=named, kind=queue)))
    if not found:
        raise InputError(f"{where}: no weights of a Keras model in it")
    found.sort(key=lambda entry: (list(CLASSES).index(entry[0]), entry[1]))
    return [layer for _, _, layer in found]
