"""LiteRT's `.tflite`, written by litert-torch: uint8 NHWC in; int8 is integers end to end."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from mobilette.arch.layers import layers
from mobilette.arch.rows import ConvPool
from mobilette.artifact.contract import Contract
from mobilette.artifact.golden import golden_inputs
from mobilette.artifact.tflite import check_tflite
from mobilette.data.normalise import Normalise
from mobilette.errors import InputError
from mobilette.exporters import tflite_file
from mobilette.exporters.litert_int8 import quantise
from mobilette.exporters.program import layer_of
from mobilette.exporters.target import Calibration, PixelsToLogits, Progress, Target, Written
from mobilette.exporters.tflite_file import fuse_padding
from mobilette.extras import needs
from mobilette.model.model import Model
from mobilette.nn.network import Network
from mobilette.silence import silence

MODEL = "model.tflite"


def write_litert(
    model: Model, contract: Contract, calibration: Calibration | None, progress: Progress
) -> Written:
    """Write the model for LiteRT."""
    return Written(files={MODEL: tflite_model(model, contract, calibration, progress)})


LITERT = Target(
    name="litert",
    precisions=("fp32", "int8"),
    packages=("litert-torch", "ai-edge-litert"),
    extra="litert-export",
    model=MODEL,
    layout="NHWC",
    batch=1,
    integer_answers=True,
    default_ranges_differ_from_minmax=True,
    writer=write_litert,
    imports="from ai_edge_litert.interpreter import Interpreter",
    code="""\
interpreter = Interpreter("{model}")
interpreter.allocate_tensors()
given, answer = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
interpreter.set_tensor(given["index"], np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)))
interpreter.invoke()
logits = interpreter.get_tensor(answer["index"])[0]
scale, zero_point = answer["quantization"]
if scale:  # int8
    logits = (logits.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)""",
)


def tflite_model(
    model: Model, contract: Contract, calibration: Calibration | None, progress: Progress
) -> bytes:
    """Return the ``.tflite`` file: uint8 (1, H, W, C) to logits (1, classes), float32 or int8.

    Where the contract has features, (1, D), they are the second output, of the same type.
    An int8 model's logits are float32 if its last layer stays in float.
    """
    program: nn.Module
    if calibration is not None:
        if contract.features and isinstance(model.arch.head, ConvPool):
            # A map and its averages have one scale, which the averages would change.
            raise InputError(
                f"--to {contract.target} in int8: features of {model.arch.name} would change its "
                "answers; use --to onnx"
            )
        quantised, example = quantise(model, contract, calibration, progress)
        _label_nodes(quantised)
        program = quantised
    else:
        network, normalise = _labelled(model.network), Normalise(model.preprocess)
        program = PixelsToLogits(
            network, normalise, layout="NHWC", features=bool(contract.features)
        ).eval()
        inputs = golden_inputs(model.arch.in_channels, model.arch.resolution)
        pixels = inputs[:1].transpose(0, 2, 3, 1)
        example = torch.from_numpy(np.ascontiguousarray(pixels))
    progress("converting for LiteRT", 0, 0)
    made = tflite_file.read(convert(program, example, quantised=calibration is not None))
    if calibration is not None:
        tflite_file.take_pixels(made, floats=bool(contract.float_layers))
        fuse_padding(made)
    tflite_file.name_tensors(made, contract)
    tflite_file.add_contract(made, contract)
    content = tflite_file.packed(made)
    try:
        check_tflite(content)
    except InputError as error:
        raise InputError(f"export to {contract.target}: {error}") from error
    return content


class _Labelled(nn.Module):
    """A layer under its full name, because the converter keeps only a name's last part."""

    def __init__(self, name: str, layer: nn.Module) -> None:
        super().__init__()
        self.label = tflite_file.label_of(name)
        self.add_module(self.label, layer)

    def forward(self, *inputs: Tensor) -> Tensor:
        output: Tensor = self.get_submodule(self.label)(*inputs)
        return output


def _labelled(network: Network) -> Network:
    network = copy.deepcopy(network)
    for layer in layers(network.arch):
        labelled = _Labelled(layer.name, network.get_submodule(layer.name))
        network.set_submodule(layer.name, labelled)
    return network


def _label_nodes(program: GraphModule) -> None:
    for node in program.graph.nodes:
        name = layer_of(node)
        if "." in name:
            stack = dict(node.meta["nn_module_stack"])
            key, (_, kind) = stack.popitem()
            node.meta["nn_module_stack"] = {**stack, key: (tflite_file.label_of(name), kind)}


def convert(program: nn.Module, example: Tensor, *, quantised: bool = False) -> bytes:
    """Return litert-torch's ``.tflite`` of ``program``, traced with ``example``.

    ``quantised`` marks a program from `quantise`, to be computed in integers.
    """
    with silence():
        with needs("litert-export", "export to litert"):
            import litert_torch
            from litert_torch.quantize import pt2e_quantizer, quant_config
        config = None
        if quantised:
            static = pt2e_quantizer.get_symmetric_quantization_config(is_per_channel=True)
            quantiser = pt2e_quantizer.PT2EQuantizer().set_global(static)
            config = quant_config.QuantConfig(pt2e_quantizer=quantiser)
        model = litert_torch.convert(program, (example,), quant_config=config)
        content: bytes = model.model_content()
    return content
