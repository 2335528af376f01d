"""ONNX Runtime on the CPU."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as states

from mobilette.artifact.contract import METADATA_KEY, Contract, canonical
from mobilette.artifact.directory import Artifact
from mobilette.engines.predictor import Predictor
from mobilette.errors import InputError

ENGINE_ERRORS = (
    states.EPFail,
    states.Fail,
    states.InvalidArgument,
    states.InvalidGraph,
    states.InvalidProtobuf,
    states.NotImplemented,
    states.RuntimeException,
)


class OnnxRuntimePredictor(Predictor):
    """An ONNX artifact, executed by ONNX Runtime.

    Args:
        artifact: what `open_artifact` returned.
        threads: of one operation; 0 lets ONNX Runtime choose.

    Raises:
        InputError: the engine does not accept the model, or the contract inside the model is not
            the one beside it.
    """

    def __init__(self, artifact: Artifact, *, threads: int = 0) -> None:
        contract = artifact.contract
        self.arch, self.preprocess = contract.arch, contract.preprocess
        self.classes, self._contract = contract.classes, contract
        self.multi_label = contract.outputs == "sigmoid"
        path = artifact.path / contract.model
        self.session = open_session(artifact.read_model(), where=str(path), threads=threads)
        check_embedded_contract(self.session, contract, where=str(path))

    def batch_logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits (N, classes) for one batch of ``pixels`` (N, C, H, W)."""
        return run_session(self.session, self._contract, pixels)


def open_session(model: bytes, *, where: str, threads: int = 0) -> Any:
    """Return ONNX Runtime's session for ``model``, or raise `InputError` naming ``where``."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except ENGINE_ERRORS as error:
        raise InputError(f"{where}: ONNX Runtime does not accept it ({_line(error)})") from error


def run_session(session: Any, contract: Contract, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the session's logits for ``pixels``, or raise `InputError` with the engine's words."""
    try:
        logits: NDArray[np.float32] = session.run([contract.output], {contract.input.name: pixels})[
            0
        ]
    except ENGINE_ERRORS as error:
        raise InputError(f"{contract.model}: ONNX Runtime failed ({_line(error)})") from error
    return logits


def check_embedded_contract(session: Any, contract: Contract, *, where: str) -> None:
    """Raise `InputError` unless the contract inside the model is ``contract``."""
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise InputError(f"{where}: no contract inside the model; it was not made by Mobilette")
    try:
        inside = json.loads(text)
    except ValueError as error:
        raise InputError(f"{where}: the contract inside the model is damaged") from error
    beside = json.loads(canonical(contract.embedded()))
    if inside != beside:
        known = inside if isinstance(inside, dict) else {}
        differing = ", ".join(key for key in beside if known.get(key) != beside[key])
        raise InputError(
            f"{where}: the contract inside the model differs from contract.json in "
            f"{differing or 'its keys'}"
        )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
