"""PyTorch's quantiser (pt2e), told what LiteRT's integer kernels can do.

`litert_torch` brings an annotator of its own; that one leaves hard-swish, hard-sigmoid, pooling and
padding in float, and looks at what a ReLU6 gets rather than at what it gives.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from mobilette.arch.rows import PoolLinear
from mobilette.data.normalise import Normalise
from mobilette.exporters.quiet import quiet
from mobilette.exporters.target import Calibration, Prepared
from mobilette.extras import needs
from mobilette.nn.layers import ConvUnit
from mobilette.nn.network import Network

aten = torch.ops.aten
_WEIGHTED = (aten.conv2d.default, aten.linear.default)
_COMPUTING = (aten.add.Tensor, aten.mul.Tensor, aten.hardswish.default, aten.hardswish_.default)
_CLIPPING = (
    aten.relu.default,
    aten.relu_.default,
    aten.relu6.default,
    aten.hardtanh.default,
    aten.hardtanh_.default,
)
_PADDING = (aten.pad.default, aten.constant_pad_nd.default)
_NOTHING = (aten.dropout.default, aten.dropout_.default)


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """How uint8 pixels are the network's input: input = (pixel - zero_point) * scale."""

    scale: float
    zero_point: int


class IntegerNetwork(nn.Module):
    """A network with NHWC input whose first layer computes with pixels.

    Where mean and std are equal over the channels, pixels *are* the normalised input, up to the
    scale and zero point of a quantised tensor. A mean between two whole numbers is rounded, and
    what is missing goes into the bias of the stem. Elsewhere a 1x1 convolution normalises.

    Attributes:
        pixels: scale and zero point.
    """

    def __init__(self, network: Network, normalise: Normalise) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.normalise: nn.Module = normalise
        self.pixels = Pixels(scale=1.0, zero_point=0)
        channels = len(normalise.bias)
        factor, shift = float(normalise.weight.max()), float(normalise.bias[0])
        matrix = normalise.weight.reshape(channels, channels)
        zero_point = round(-shift / factor)
        equal = bool((normalise.bias == shift).all()) and int((matrix == factor).sum()) == channels
        if equal and 0 <= zero_point <= 255:
            self.pixels = Pixels(scale=factor, zero_point=zero_point)
            self.normalise = nn.Identity()
            stem = self.network.stem.conv
            order = matrix.argmax(1)
            weight = torch.empty_like(stem.weight)
            weight[:, order] = stem.weight.detach()
            missing = shift + zero_point * factor
            bias = weight.sum((1, 2, 3)) * missing
            if stem.bias is not None:
                bias = bias + stem.bias.detach()
            stem.weight, stem.bias = nn.Parameter(weight), nn.Parameter(bias)
        for module in self.network.modules():
            if isinstance(module, ConvUnit):
                _scale_hard_sigmoid(module)
        _linear_as_convolution(self.network)
        for module in self.network.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                _make_unequal(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes) for ``x`` (N, H, W, C): (pixel - zero_point) * scale."""
        logits: Tensor = self.network(self.normalise(x.permute(0, 3, 1, 2)))
        return logits.flatten(1)

    def values(self, pixels: Tensor) -> Tensor:
        """Return the input for ``pixels`` uint8 (N, C, H, W)."""
        shifted = pixels.permute(0, 2, 3, 1).float() - self.pixels.zero_point
        return (shifted * self.pixels.scale).contiguous()


def _make_unequal(bias: Tensor) -> None:
    """Change the last bit of the first of several equal numbers.

    litert-torch 0.10 quantises a bias that is one number repeated by the first channel's scale
    alone, which is wrong for all others.
    """
    with torch.no_grad():
        if len(bias) > 1 and bias[0] != 0 and bool((bias == bias[0]).all()):
            bias[0] = torch.nextafter(bias[0], torch.zeros(()))


def _linear_as_convolution(network: Network) -> None:
    """Make linear layers convolutions whose kernel is as large as their input.

    Where a linear layer has a scale for each output, tflite-micro rounds in another way than LiteRT
    does, and versions before 2024 do not know of such scales; of convolutions both hold.
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


def _scale_hard_sigmoid(unit: ConvUnit) -> None:
    """Make hard-sigmoid a clipping to 0 to 1, its factor and shift part of the convolution.

    A tensor quantised to 0 to 1 clips by itself, so no operator is left of it.
    """
    if not isinstance(getattr(unit, "activation", None), nn.Hardsigmoid):
        return
    conv = unit.conv
    bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
    conv.weight = nn.Parameter(conv.weight.detach() / 6)
    conv.bias = nn.Parameter(bias / 6 + 0.5)
    unit.activation = nn.Hardtanh(0.0, 1.0)


def quantise(prepared: Prepared, calibration: Calibration) -> tuple[GraphModule, Tensor]:
    """Return the quantised program and an example of its input, float (1, H, W, C).

    Per channel and symmetric for weights; ranges of activations from ``calibration``.
    """
    with quiet(), needs("litert-export", "int8 for litert"):
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    network = IntegerNetwork(prepared.network, prepared.normalise).eval()
    pixels = torch.from_numpy(calibration.pixels)
    example = network.values(pixels[:1])
    with quiet(), torch.no_grad():
        program = torch.export.export(network, (example,)).module()
        observed = prepare_pt2e(program, _quantizer(network.pixels))
        for index in range(len(pixels)):
            observed(network.values(pixels[index : index + 1]))
        # folded constants would be mere integers to the converter
        quantised: GraphModule = convert_pt2e(observed, fold_quantize=False)
    _drop_clipping_to_one(quantised)
    return quantised, example


def _quantizer(pixels: Pixels) -> Any:
    """Return the annotator, a class made here because its base is in an extra."""
    from torchao.quantization.pt2e.observer import HistogramObserver, PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantizer import (
        FixedQParamsQuantizationSpec,
        QuantizationAnnotation,
        QuantizationSpec,
        Quantizer,
        SharedQuantizationSpec,
    )

    def fixed(scale: float, zero_point: int) -> Any:
        return FixedQParamsQuantizationSpec(
            dtype=torch.int8,
            scale=scale,
            zero_point=zero_point,
            quant_min=-128,
            quant_max=127,
            qscheme=torch.per_tensor_affine,
        )

    given, to_one = fixed(pixels.scale, pixels.zero_point - 128), fixed(1 / 255, -128)
    activations = QuantizationSpec(
        dtype=torch.int8,
        quant_min=-128,
        quant_max=127,
        qscheme=torch.per_tensor_affine,
        observer_or_fake_quant_ctr=HistogramObserver.with_args(eps=2**-12),
    )
    weights = QuantizationSpec(
        dtype=torch.int8,
        quant_min=-127,
        quant_max=127,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
        observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(eps=2**-20),
    )

    class LiteRtQuantizer(Quantizer):  # type: ignore[misc]
        """Annotates every node of a program."""

        def annotate(self, model: GraphModule) -> GraphModule:
            for node in model.graph.nodes:
                if node.op == "placeholder":
                    node.meta["quantization_annotation"] = QuantizationAnnotation(
                        output_qspec=given, _annotated=True
                    )
                elif node.op == "call_function":
                    _annotate(node)
            return model

        def validate(self, model: GraphModule) -> None:
            """Accept what `annotate` did."""

    def _annotate(node: Node) -> None:
        inputs = {x: _given(x) for x in node.all_input_nodes if x.op != "get_attr"}
        computed = None if _clipped(node) else activations
        if node.target in _WEIGHTED:
            source = {} if _is_padded(node) else inputs
            _mark(node, source | {node.args[1]: weights}, computed)
        elif node.target in _COMPUTING:
            _mark(node, inputs, computed)
        elif node.target in _CLIPPING:
            _mark(node, {}, to_one if _clips_to_one(node) else activations)
        elif node.target in _PADDING and _is_padded(next(iter(node.users))):
            _mark(node, inputs, None)
        elif inputs:  # values are moved or averaged, and stay in their range
            first, *others = inputs
            shared = SharedQuantizationSpec((first, node))
            _mark(node, {first: inputs[first]} | dict.fromkeys(others, shared), shared)

    def _given(node: Node) -> Any:
        """Return the range that is fixed for ``node``, or how one is found."""
        if node.op == "placeholder":
            return given
        if node.target in (*_WEIGHTED, *_COMPUTING, *_CLIPPING):
            return to_one if _clips_to_one(node) else activations
        return _given(node.all_input_nodes[0])

    def _mark(node: Node, inputs: dict[Any, Any], output: Any) -> None:
        node.meta["quantization_annotation"] = QuantizationAnnotation(
            input_qspec_map=inputs, output_qspec=output, _annotated=True
        )

    return LiteRtQuantizer()


def _clipped(node: Node) -> bool:
    """Whether only an activation reads ``node``, so that an engine computes both at once."""
    return len(node.users) == 1 and next(iter(node.users)).target in _CLIPPING


def _is_padded(node: Node) -> bool:
    """Whether ``node`` is a convolution whose padding is an operator of its own before it."""
    source = node.args[0] if node.args else None
    return (
        node.target == aten.conv2d.default
        and isinstance(source, Node)
        and source.target in _PADDING
        and len(source.users) == 1
    )


def _clips_to_one(node: Node) -> bool:
    return node.target in _CLIPPING and node.args[1:] == (0.0, 1.0)


def _drop_clipping_to_one(program: GraphModule) -> None:
    for node in program.graph.nodes:
        if _clips_to_one(node):
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
    program.recompile()
