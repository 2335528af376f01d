"""ONNX Runtime Web (WebAssembly), executed by node."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilette.artifact.contract import METADATA_KEY
from mobilette.engines.artifact import ArtifactPredictor
from mobilette.engines.node import NodeError, NodeProcess, find_node, find_package
from mobilette.errors import InputError
from mobilette.files import read_json

SCRIPT = Path(__file__).with_suffix(".mjs")
PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
RUNTIME = Path("dist") / "ort.node.min.mjs"


class OnnxRuntimeWebPredictor(ArtifactPredictor):
    """A web artifact's model, executed by onnxruntime-web under node.

    Any number of threads may ask it: there is one process of node, which answers one call after the
    other. Where it ends the call fails, and the next one starts another.

    Nothing of the artifact but its model is executed: not its page, not its module.
    """

    engine = "ONNX Runtime Web"
    in_this_process = False

    def at_once(self) -> int:
        """Return 1: one process of node."""
        return 1

    def open(self) -> NodeProcess:
        """Start node and have it make the session."""
        model = self.artifact.read_model()
        self.check_embedded(_read_embedded(model))
        runtime = (find_runtime(self.artifact.path) / RUNTIME).as_uri()
        contract = self.contract
        names = {
            "input": contract.input.name,
            "output": contract.output,
            "shape": contract.input.shape,
        }
        node = NodeProcess(SCRIPT, [runtime, str(self.threads), json.dumps(names)])
        try:
            node.ask(model)
        except NodeError as error:
            raise self.refused(error) from error
        return node

    def batch_logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits (N, classes) for one batch of ``pixels`` (N, C, H, W)."""
        with self.session() as node:
            try:
                answer = node.ask(np.ascontiguousarray(self.laid_out(pixels)).tobytes())
            except NodeError as error:
                raise self.failed(error) from error
        logits = np.frombuffer(answer, "<f4").astype(np.float32)
        if len(logits) != len(pixels) * len(self.classes):
            raise self.failed(NodeError(f"{len(logits)} logits for {len(pixels)} images"))
        return logits.reshape(len(pixels), len(self.classes))


def find_runtime(artifact: Path | None = None) -> Path:
    """Return the folder of the package.

    Raises:
        InputError: it is not there, or lies in ``artifact``; or node is not installed.
    """
    find_node()
    return find_package(PACKAGE, VERSION, artifact=artifact)


def describe_runtime() -> str:
    """Return which onnxruntime-web executes web artifacts here, or what to install."""
    try:
        folder = find_runtime()
        about = read_json(folder / "package.json")
    except InputError as error:
        return str(error)
    version = about.get("version") if isinstance(about, dict) else None
    return f"{PACKAGE} {version} in {folder.parent}"


def _read_embedded(model: bytes) -> str | None:
    """Return the contract inside an ONNX file; the package has no way to ask for it."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        entries = onnx.ModelProto.FromString(model).metadata_props
    except DecodeError:
        return None
    return next((entry.value for entry in entries if entry.key == METADATA_KEY), None)
