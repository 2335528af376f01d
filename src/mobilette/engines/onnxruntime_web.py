"""ONNX Runtime Web (WebAssembly), executed by node."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilette.artifact.contract import METADATA_KEY
from mobilette.engines.artifact import ArtifactPredictor
from mobilette.engines.node import NodeError, NodeProcess, find_package

SCRIPT = Path(__file__).with_suffix(".mjs")
PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
RUNTIME = Path("dist") / "ort.node.min.mjs"


class OnnxRuntimeWebPredictor(ArtifactPredictor):
    """A web artifact's model, executed by onnxruntime-web under node.

    Nothing of the artifact but its model is executed: not its page, not its module.
    """

    engine = "ONNX Runtime Web"
    in_this_process = False

    def open(self) -> None:
        """Start node and have it make the session."""
        model = self.artifact.read_model()
        self.check_embedded(_read_embedded(model))
        runtime = (find_package(PACKAGE, VERSION, artifact=self.artifact.path) / RUNTIME).as_uri()
        contract = self.contract
        names = {
            "input": contract.input.name,
            "output": contract.output,
            "shape": contract.input.shape,
        }
        self.node = NodeProcess(SCRIPT, [runtime, str(self.threads), json.dumps(names)])
        try:
            self.node.ask(model)
        except NodeError as error:
            raise self.refused(error) from error

    def batch_logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits (N, classes) for one batch of ``pixels`` (N, C, H, W)."""
        try:
            answer = self.node.ask(np.ascontiguousarray(self.laid_out(pixels)).tobytes())
        except NodeError as error:
            raise self.failed(error) from error
        logits = np.frombuffer(answer, "<f4").astype(np.float32)
        if len(logits) != len(pixels) * len(self.classes):
            raise self.failed(NodeError(f"{len(logits)} logits for {len(pixels)} pictures"))
        return logits.reshape(len(pixels), len(self.classes))


def _read_embedded(model: bytes) -> str | None:
    """Return the contract inside an ONNX file; the package has no way to ask for it."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        entries = onnx.ModelProto.FromString(model).metadata_props
    except DecodeError:
        return None
    return next((entry.value for entry in entries if entry.key == METADATA_KEY), None)
