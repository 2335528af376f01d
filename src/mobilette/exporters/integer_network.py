"""A network rewritten for integer arithmetic: the same answers from other layers."""

from __future__ import annotations

import copy
from collections.abc import Set

import torch
from torch import Tensor, nn

from mobilette.arch.layers import layers
from mobilette.arch.primitives import ActivationLayer, Layer
from mobilette.arch.rows import PoolLinear
from mobilette.data.normalise import Normalise
from mobilette.nn.network import Network


class IntegerNetwork(nn.Module):
    """A network with NHWC input whose first layer computes with pixels.

    If all channels share mean and std, pixels *are* the normalised input, up to the scale and zero
    point of a quantised tensor; a fractional mean is rounded, and the stem's bias makes up for the
    rest. Otherwise a 1x1 convolution normalises.

    Args:
        network: with batch norms folded; not changed.
        normalise: maps pixels to the network's input.
        floats: layers that stay in float.
        features: whether features are a second output.
    """

    def __init__(
        self,
        network: Network,
        normalise: Normalise,
        *,
        floats: Set[str] = frozenset(),
        features: bool = False,
    ) -> None:
        super().__init__()
        self.features = features
        self.network = copy.deepcopy(network)
        self.normalise: nn.Module = normalise
        self.scale, self.zero_point = 1.0, 0  # input is (pixel - zero_point) * scale
        channels = len(normalise.bias)
        factor, shift = float(normalise.weight.max()), float(normalise.bias[0])
        matrix = normalise.weight.reshape(channels, channels)
        zero_point = round(-shift / factor)
        equal = bool((normalise.bias == shift).all()) and int((matrix == factor).sum()) == channels
        stem = self.network.stem.conv
        if equal and 0 <= zero_point <= 255 and isinstance(stem, nn.Conv2d):
            self.scale, self.zero_point = factor, zero_point
            self.normalise = nn.Identity()
            order = matrix.argmax(1)
            weight = torch.empty_like(stem.weight)
            weight[:, order] = stem.weight.detach()
            missing = shift + zero_point * factor
            bias = weight.sum((1, 2, 3)) * missing
            if stem.bias is not None:
                bias = bias + stem.bias.detach()
            stem.weight, stem.bias = nn.Parameter(weight), nn.Parameter(bias)
        for layer in layers(network.arch):
            sigmoid = isinstance(layer, ActivationLayer) and layer.function == "hard_sigmoid"
            if sigmoid and layer.inputs[0] not in floats:
                _clip_hard_sigmoid(self.network, layer)
        _linear_as_convolution(self.network)
        for module in self.network.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                _make_unequal(module.bias)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits (N, classes) for ``x`` (N, H, W, C), from `values`; or also features."""
        x = self.normalise(x.permute(0, 3, 1, 2))
        if self.features:
            both = self.network.with_features(x)
            return both[0].flatten(1), both[1].flatten(1)
        logits: Tensor = self.network(x)
        return logits.flatten(1)

    def values(self, pixels: Tensor) -> Tensor:
        """Return the input for ``pixels`` uint8 (N, C, H, W)."""
        shifted = pixels.permute(0, 2, 3, 1).float() - self.zero_point
        return (shifted * self.scale).contiguous()


def _make_unequal(bias: Tensor) -> None:
    """Change the last bit of the first of several equal biases.

    litert-torch 0.10 quantises a constant bias with the first channel's scale.
    """
    with torch.no_grad():
        if len(bias) > 1 and bias[0] != 0 and bool((bias == bias[0]).all()):
            bias[0] = torch.nextafter(bias[0], torch.zeros(()))


def _linear_as_convolution(network: Network) -> None:
    """Replace linear layers by convolutions whose kernel covers their input.

    With per-channel scales, tflite-micro rounds linear layers unlike LiteRT, and versions before
    2024 do not support such scales; convolutions have neither problem.
    """
    head = network.arch.head
    if not isinstance(head, PoolLinear):
        return
    network.head.flatten = nn.Identity()
    kernel = head.pool
    for parent in list(network.head.modules()):
        for name, linear in list(parent.named_children()):
            if not isinstance(linear, nn.Linear):
                continue
            channels = linear.in_features // kernel**2
            conv = nn.Conv2d(channels, linear.out_features, kernel)
            shape = conv.weight.shape
            conv.weight = nn.Parameter(linear.weight.detach().reshape(shape))
            conv.bias = nn.Parameter(linear.bias.detach())
            parent.add_module(name, conv)
            kernel = 1


def _clip_hard_sigmoid(network: Network, layer: Layer) -> None:
    """Make hard-sigmoid a clipping to 0 to 1; the convolution takes over its factor and shift.

    A tensor quantised to 0 to 1 clips by itself, so no operator remains.
    """
    conv = network.get_submodule(layer.inputs[0])
    if not isinstance(conv, nn.Conv2d):
        return
    bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
    conv.weight = nn.Parameter(conv.weight.detach() / 6)
    conv.bias = nn.Parameter(bias / 6 + 0.5)
    network.set_submodule(layer.name, nn.Hardtanh(0.0, 1.0))
