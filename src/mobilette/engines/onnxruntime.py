"""ONNX Runtime on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as states

from mobilette.artifact.contract import METADATA_KEY
from mobilette.engines.artifact import ArtifactPredictor

ENGINE_ERRORS = (
    states.EPFail,
    states.Fail,
    states.InvalidArgument,
    states.InvalidGraph,
    states.InvalidProtobuf,
    states.NotImplemented,
    states.RuntimeException,
)


class OnnxRuntimePredictor(ArtifactPredictor):
    """An ONNX artifact, executed by ONNX Runtime."""

    engine = "ONNX Runtime"

    def open(self) -> None:
        """Make the session."""
        try:
            self.session = open_session(self.artifact.read_model(), threads=self.threads)
        except ENGINE_ERRORS as error:
            raise self.refused(error) from error
        self.check_embedded(self.session.get_modelmeta().custom_metadata_map.get(METADATA_KEY))

    def batch_logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits (N, classes) for one batch of ``pixels`` (N, C, H, W)."""
        inputs = {self.contract.input.name: self.laid_out(pixels)}
        try:
            logits: NDArray[np.float32] = self.session.run([self.contract.output], inputs)[0]
        except ENGINE_ERRORS as error:
            raise self.failed(error) from error
        return logits


def open_session(model: bytes, *, threads: int = 0) -> Any:
    """Return ONNX Runtime's session for ``model``, or raise one of `ENGINE_ERRORS`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
