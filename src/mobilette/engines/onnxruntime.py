"""ONNX Runtime on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilette.artifact.contract import METADATA_KEY
from mobilette.engines.artifact import ArtifactPredictor
from mobilette.extras import reports_off

with reports_off():
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as states

ENGINE_ERRORS = (
    states.EPFail,
    states.Fail,
    states.InvalidArgument,
    states.InvalidGraph,
    states.InvalidProtobuf,
    states.NotImplemented,
    states.RuntimeException,
    ValueError,  # wrong name of an input or output
)
# The quantiser's suffix for a rounded tensor.
_ROUNDED = "_DequantizeLinear_Output"


class OnnxRuntimePredictor(ArtifactPredictor):
    """An ONNX artifact, executed by ONNX Runtime; threads may share it, in parallel."""

    engine = "ONNX Runtime"

    def open(self) -> Any:
        """Return ONNX Runtime's session."""
        try:
            session = open_session(self.artifact.read_model(), threads=self.threads)
        except ENGINE_ERRORS as error:
            raise self.refused(error) from error
        self.check_embedded(session.get_modelmeta().custom_metadata_map.get(METADATA_KEY))
        return session

    def batch_outputs(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Return logits, and features if there are any, for one batch of ``pixels``."""
        inputs = {self.contract.input.name: self.laid_out(pixels)}
        with self.session() as session:
            try:
                outputs: list[NDArray[np.float32]] = session.run(self.output_names, inputs)
            except ENGINE_ERRORS as error:
                raise self.failed(error) from error
        return outputs

    def activations(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return every float32 tensor in order of execution; int8 tensors as rounded."""
        import onnx

        model = onnx.load_model_from_string(self.artifact.read_model())
        constants = {tensor.name for tensor in model.graph.initializer}
        known = {output.name for output in model.graph.output}
        names: dict[str, str] = {}
        for node in model.graph.node:
            if node.op_type == "DequantizeLinear":
                if node.input[0] not in constants:
                    names[node.output[0].removesuffix(_ROUNDED)] = node.output[0]
            elif node.op_type != "QuantizeLinear":
                names[node.output[0]] = node.output[0]
        shown = [name for name in names.values() if name not in known]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in shown)
        try:
            session = open_session(model.SerializeToString(), threads=self.threads)
            inputs = {self.contract.input.name: self.laid_out(pixels)}
            values = session.run(list(names.values()), inputs)
        except ENGINE_ERRORS as error:
            raise self.failed(error) from error
        pairs = zip(names, values, strict=True)
        return {name: value for name, value in pairs if value.dtype == np.float32}


def open_session(model: bytes, *, threads: int = 0) -> Any:
    """Return ONNX Runtime's session for ``model``, or raise one of `ENGINE_ERRORS`.

    Its quickest int8 products add two of them in 16 bits on x86 processors without VNNI, which
    overflows where weights have 8 bits (onnxruntime.ai, "Quantize ONNX models", "When and why do I
    need to try U8U8?"). ``session.x64quantprecision`` makes them unsigned there, and exact.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
