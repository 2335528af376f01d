"""What an artifact needs beyond what is counted of its network: estimates, until it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from mobilette.arch.catalogue import get_arch, list_models
from mobilette.arch.editing import merged
from mobilette.arch.layers import layers
from mobilette.arch.primitives import ConvLayer, LinearLayer
from mobilette.counting.candidates import Precision

# Bytes that a file has beside the weights, per layer and per channel of a convolution: names,
# shapes, scales. Fitted on 4 to 13 networks; of other targets little is known, or there is little.
FILE_BYTES: Mapping[tuple[str, Precision], tuple[float, float]] = MappingProxyType(
    {
        ("onnx", "int8"): (720.0, 8.0),
        ("onnx", "fp32"): (120.0, 0.0),
        ("web", "int8"): (720.0, 8.0),
        ("web", "fp32"): (120.0, 0.0),
        ("litert", "int8"): (210.0, 24.5),
        ("litert", "fp32"): (150.0, 0.0),
        ("mcu", "int8"): (210.0, 24.5),
        ("openvino", "int8"): (2200.0, 0.0),
        ("openvino", "fp32"): (800.0, 0.0),
    }
)
# A microcontroller's arena by the activations alive at once: 1.4 to 2.2 in ten networks, since a
# padded map is kept beside the map.
ARENA = 2.1


def beside_weights(name: str, target: str, precision: Precision) -> Callable[[float], float]:
    """Return what gives, by width multiplier, the bytes of a network's file beside its weights."""
    of_layer, of_channel = FILE_BYTES.get((target, precision), (0.0, 0.0))
    if name not in list_models():
        return lambda width: 0.0
    graph = layers(merged(get_arch(name)))
    channels = sum(x.shape[0] for x in graph if isinstance(x, ConvLayer | LinearLayer))
    return lambda width: of_layer * len(graph) + of_channel * width * channels
