"""ONNX, by PyTorch's exporter."""

from __future__ import annotations

import ast
from collections import Counter

import onnx
import torch

from mobilette.artifact.contract import METADATA_KEY, Contract, canonical
from mobilette.artifact.golden import golden_inputs
from mobilette.compression.float_layers import in_float
from mobilette.data.normalise import Normalise
from mobilette.exporters.onnx_int8 import absorb_normalisation, quantize
from mobilette.exporters.program import quiet_log
from mobilette.exporters.target import Calibration, PixelsToLogits, Progress, Target, Written
from mobilette.model.model import Model
from mobilette.nn.layers import GlobalAveragePool
from mobilette.nn.network import Network
from mobilette.silence import NO_WARNINGS

INPUT, OUTPUT, MODEL = "pixels", "logits", "model.onnx"
PREFIX = "network."  # of layers in the exported module
OPSET = 20


def write_onnx(
    model: Model, contract: Contract, calibration: Calibration | None, progress: Progress
) -> Written:
    """Write the ONNX model, for uint8 NCHW pixels and any batch size.

    Normalisation is its first convolution or, where int8 allows it, the input's quantisation. Nodes
    are named after the `Arch`'s layers.
    """
    features = contract.features
    if calibration is not None:
        quantisable = absorb_normalisation(model)
        made = quantize(
            convert(quantisable.network, quantisable.normalise, features=features),
            calibration.pixels,
            quantisable,
            ranges=contract.ranges,
            floats=in_float(model.arch, frozenset(contract.float_layers)),
        )
    else:
        made = convert(model.network, Normalise(model.preprocess), features=features)
    entry = made.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, canonical(contract.embedded())
    onnx.checker.check_model(made, full_check=True)
    return Written(files={MODEL: made.SerializeToString()})


ONNX = Target(
    name="onnx",
    precisions=("fp32", "int8"),
    packages=("onnx", "onnxruntime"),
    model=MODEL,
    input=INPUT,
    output=OUTPUT,
    writer=write_onnx,
    imports="import onnxruntime",
    code="""\
options = onnxruntime.SessionOptions()
# int8 sums overflow on x86 processors without VNNI unless this is set
options.add_session_config_entry("session.x64quantprecision", "1")
session = onnxruntime.InferenceSession("{model}", options)
logits = session.run(["{output}"], {{"{input}": pixels}})[0][0]""",
)


def convert(network: Network, normalise: Normalise, *, features: str = "") -> onnx.ModelProto:
    """Return ``network`` with its normalisation as ONNX, its nodes named by layer.

    ``network`` is in evaluation mode, its batch norms folded. If ``features`` is not empty, they
    are a second output with this name.
    """
    pixels = golden_inputs(network.arch.in_channels, network.arch.resolution)
    module = PixelsToLogits(network, normalise, layout="NCHW", features=bool(features))
    with quiet_log("torch.onnx"), NO_WARNINGS:
        program = torch.onnx.export(
            module.eval(),
            (torch.from_numpy(pixels[:2]),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            input_names=[INPUT],
            output_names=[OUTPUT, features] if features else [OUTPUT],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    _name_by_layer(model)
    _mark_global_pools(model, network)
    return model


def _name_by_layer(model: onnx.ModelProto) -> None:
    """Name nodes and their outputs after layers, and drop the exporter's notes.

    Where a layer has several nodes, operator and number follow its name.
    """
    scopes = [_scope(node) for node in model.graph.node]
    count, seen, renamed = Counter(scopes), Counter[str](), {}
    outputs = {output.name for output in model.graph.output}
    for tensor in model.graph.initializer:
        renamed[tensor.name] = tensor.name = tensor.name.removeprefix(PREFIX)
    for node, layer in zip(model.graph.node, scopes, strict=True):
        name = f"{layer}.{node.op_type.lower()}" if count[layer] > 1 else layer
        seen[name] += 1
        node.name = f"{name}.{seen[name]}" if seen[name] > 1 else name
        if node.output[0] not in outputs:
            renamed[node.output[0]] = node.name
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]


def _mark_global_pools(model: onnx.ModelProto, network: Network) -> None:
    """Make average pools global where they are, so that quantisers scale their outputs separately.

    An average pool's output gets its input's scale, too coarse for means.
    """
    pools = {name for name, part in network.named_modules() if isinstance(part, GlobalAveragePool)}
    for node in model.graph.node:
        if node.op_type == "AveragePool" and node.name in pools:
            node.op_type = "GlobalAveragePool"
            del node.attribute[:]


def _scope(node: onnx.NodeProto) -> str:
    notes = {entry.key: entry.value for entry in node.metadata_props}
    scopes: list[str] = ast.literal_eval(notes["pkg.torch.onnx.name_scopes"])
    return scopes[-2].removeprefix(PREFIX)
