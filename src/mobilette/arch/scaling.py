"""Which channels of a network can be scaled where they are computed and back where they are read.

The groups are those of `mobilette.arch.channels` with three differences. A depthwise convolution
reads channels and computes new ones, so that the factor before it may differ from that behind it. A
channel that a hard-swish or hard-sigmoid changes, or that is a factor of another, is in no group:
f(s * x) is not s * f(x) there. And every layer that a channel passes and that is more than a
rearrangement is noted, with the side ``through``, because not all of them let everything pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from mobilette.arch.arch import Arch
from mobilette.arch.channels import ChannelGroup, Trace
from mobilette.arch.layers import layers
from mobilette.arch.primitives import (
    INPUT,
    ActivationLayer,
    AdaptivePoolLayer,
    AnyLayer,
    ConvLayer,
    PoolLayer,
    ScaleLayer,
)

# f(s * x) = s * f(x) for every s > 0. ReLU6 is, too, where no value reaches the 6.
HOMOGENEOUS = ("none", "relu", "relu6")


@lru_cache(maxsize=32)
def scaling_groups(arch: Arch) -> tuple[ChannelGroup, ...]:
    """Return the groups of channels that have one factor each, in the order of execution.

    A group's ``outputs`` are where its channels are computed, its ``inputs`` where they are read.

    Raises:
        InputError: the rows of ``arch`` do not fit together.
    """
    trace, fixed = _ScalingTrace(arch.in_channels), [INPUT, layers(arch)[-1].name]
    for layer in layers(arch):
        trace.follow(layer)
        if isinstance(layer, ScaleLayer):
            fixed.extend(layer.inputs[1:])
        elif isinstance(layer, ActivationLayer) and layer.function not in HOMOGENEOUS:
            fixed.append(layer.name)
    return trace.groups(fixed=fixed)


class _ScalingTrace(Trace):
    def output(
        self, layer: AnyLayer, channels: Sequence[int], others: list[Sequence[int]]
    ) -> Sequence[int]:
        if isinstance(layer, ConvLayer) and layer.is_depthwise:
            self.note(layer, "input", channels)
            channels = self.new(len(channels))
            self.note(layer, "output", channels)
            return channels
        if isinstance(layer, ActivationLayer | AdaptivePoolLayer | PoolLayer | ScaleLayer):
            self.note(layer, "through", channels)
        if isinstance(layer, ScaleLayer):  # not tied to its factors
            return channels
        return super().output(layer, channels, others)
