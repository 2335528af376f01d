"""int8 for LiteRT by PyTorch's quantiser, with ranges and shared scales that integers need."""

from __future__ import annotations

from collections.abc import Set
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from mobilette.artifact.contract import Contract
from mobilette.compression.float_layers import in_float, is_part_of
from mobilette.compression.ranges import Ranges
from mobilette.data.normalise import Normalise
from mobilette.exporters.integer_network import IntegerNetwork
from mobilette.exporters.program import activation_observer, layer_of
from mobilette.exporters.target import Calibration, Progress
from mobilette.extras import needs
from mobilette.model.model import Model
from mobilette.silence import silence

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
_SIGMOIDS = (aten.sigmoid.default, aten.sigmoid_.default)
_PADDING = (aten.pad.default, aten.constant_pad_nd.default)
_NOTHING = (aten.dropout.default, aten.dropout_.default)

# Images per calibration step; one by one takes six times as long.
BATCH = 8
_SMALLEST_STEP = 2.0**-12  # of activations
_LARGEST_BIAS = 2.0**30


def quantise(
    model: Model, contract: Contract, calibration: Calibration, progress: Progress
) -> tuple[GraphModule, Tensor]:
    """Return the quantised program and an example input, float (1, H, W, C).

    Weights are symmetric per channel; `activation_observer` chooses activation ranges. Layers in
    float read rounded inputs.
    """
    with silence(), needs("litert-export", "int8 for litert"):
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    floats = in_float(model.arch, frozenset(contract.float_layers))
    normalise = Normalise(model.preprocess)
    features = bool(contract.features)
    network = IntegerNetwork(model.network, normalise, floats=floats, features=features).eval()
    pixels = torch.from_numpy(calibration.pixels)
    example = network.values(pixels[:BATCH])
    with silence(), torch.no_grad():
        batch = torch.export.Dim("batch", min=1, max=BATCH)
        exported = torch.export.export(network, (example,), dynamic_shapes=({0: batch},))
        program = exported.module(check_guards=False)
        annotator = _Annotator(network, contract.ranges, floats)
        observed = prepare_pt2e(program, annotator.quantiser())
        for first in range(0, len(pixels), BATCH):
            progress("calibrating", first, len(pixels))
            observed(network.values(pixels[first : first + BATCH]))
        _leave_room_for_biases(observed)
        # the converter would take folded constants for plain integers
        quantised: GraphModule = convert_pt2e(observed, fold_quantize=False)
    _drop_clipping_to_one(quantised)
    return quantised, example[:1]


class _Annotator:
    """Sets each node's quantisation; the layers ``floats`` get none."""

    def __init__(self, network: IntegerNetwork, ranges: Ranges, floats: Set[str]) -> None:
        from torchao.quantization.pt2e import quantizer
        from torchao.quantization.pt2e.observer import PerChannelMinMaxObserver

        self.quantizer, self.floats = quantizer, floats
        tensor = {
            "dtype": torch.int8,
            "quant_min": -128,
            "quant_max": 127,
            "qscheme": torch.per_tensor_affine,
        }
        fixed = partial(quantizer.FixedQParamsQuantizationSpec, **tensor)
        self.given = fixed(scale=network.scale, zero_point=network.zero_point - 128)
        self.to_one = fixed(scale=1 / 255, zero_point=-128)
        # What the operator LOGISTIC is specified for (TensorFlow Lite 8-bit quantisation).
        self.logistic = fixed(scale=1 / 256, zero_point=-128)
        observer = activation_observer(ranges).with_args(eps=_SMALLEST_STEP)
        self.activations = quantizer.QuantizationSpec(observer_or_fake_quant_ctr=observer, **tensor)
        self.weights = quantizer.QuantizationSpec(
            dtype=torch.int8,
            quant_min=-127,
            quant_max=127,
            qscheme=torch.per_channel_symmetric,
            ch_axis=0,
            observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(eps=2**-20),
        )

    def quantiser(self) -> Any:
        """Return torchao's quantiser, of a class whose base is an extra's."""

        def annotate(_: Any, model: GraphModule) -> GraphModule:
            for node in model.graph.nodes:
                self.annotate(node)
            return model

        methods = {"annotate": annotate, "validate": lambda _, model: None}
        return type("LiteRtQuantizer", (self.quantizer.Quantizer,), methods)()

    def annotate(self, node: Node) -> None:
        if node.op == "placeholder":
            self._mark(node, {}, self.given)
        if node.op == "placeholder" or not _is_tensor(node) or _stays_in_float(node, self.floats):
            return
        inputs = {x: self._range_of(x) for x in _activations(node)}
        computed = None if _clipped(node) else self.activations
        if node.target in _WEIGHTED:
            source = {} if _is_padded(node) else inputs
            self._mark(node, source | {node.args[1]: self.weights}, computed)
        elif node.target in _COMPUTING:
            self._mark(node, inputs, computed)
        elif node.target in _CLIPPING:
            self._mark(node, {}, self.to_one if _clips_to_one(node) else self.activations)
        elif node.target in _SIGMOIDS:
            self._mark(node, inputs, self.logistic)
        elif node.target in _PADDING and _is_padded(next(iter(node.users))):
            self._mark(node, inputs, None)
        elif inputs:  # moves or averages values within their range
            first, *others = inputs
            shared = self.quantizer.SharedQuantizationSpec((first, node))
            self._mark(node, {first: inputs[first]} | dict.fromkeys(others, shared), shared)

    def _range_of(self, node: Node) -> Any:
        if node.op == "placeholder":
            return self.given
        if node.target in _SIGMOIDS:
            return self.logistic
        if node.target in (*_WEIGHTED, *_COMPUTING, *_CLIPPING):
            return self.to_one if _clips_to_one(node) else self.activations
        return self._range_of(_activations(node)[0])

    def _mark(self, node: Node, inputs: dict[Any, Any], output: Any) -> None:
        node.meta["quantization_annotation"] = self.quantizer.QuantizationAnnotation(
            input_qspec_map=inputs, output_qspec=output, _annotated=True
        )


def _leave_room_for_biases(observed: GraphModule) -> None:
    """Enlarge the weight steps of channels with tiny weights until their biases fit int32."""
    for node in observed.graph.nodes:
        if node.target != aten.conv2d.default:
            continue
        source, weight, bias = node.args[:3]
        if weight.op != "call_module":  # not observed: stays in float
            continue
        if source.target in _PADDING:
            source = source.args[0]
        observer: Any = observed.get_submodule(weight.target)
        steps = torch.maximum(-observer.min_val, observer.max_val) / 127
        needed = attrgetter(bias.target)(observed).detach().abs() / (_LARGEST_BIAS * _SMALLEST_STEP)
        if bool((steps > needed).all()):
            continue
        reading: Any = observed.get_submodule(source.target)
        step, _ = reading.calculate_qparams()
        needed *= _SMALLEST_STEP / step
        observer.max_val = torch.maximum(observer.max_val, 127 * needed)


def _stays_in_float(node: Node, floats: Set[str]) -> bool:
    """Whether ``node`` is one of the layers ``floats``, or only moves their output."""
    layer = layer_of(node)
    if layer and node.target not in _NOTHING:
        return is_part_of(layer, floats)
    inputs = _activations(node)
    return bool(inputs) and all(_stays_in_float(x, floats) for x in inputs)


def _activations(node: Node) -> list[Node]:
    """Return the tensors that ``node`` reads, without parameters and sizes."""
    return [x for x in node.all_input_nodes if x.op != "get_attr" and _is_tensor(x)]


def _is_tensor(node: Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _clipped(node: Node) -> bool:
    return len(node.users) == 1 and next(iter(node.users)).target in _CLIPPING


def _is_padded(node: Node) -> bool:
    """Whether ``node`` is a convolution with a separate padding operator before it."""
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
