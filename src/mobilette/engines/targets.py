"""Which engine executes which target. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from mobilette.artifact.directory import Artifact
from mobilette.engines.artifact import ArtifactPredictor
from mobilette.errors import InputError

# Target to (module, class, package), imported when needed. An optional package is brought by the
# extra of the target's name.
ENGINES: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "onnx": ("onnxruntime", "OnnxRuntimePredictor", "onnxruntime"),
        "web": ("onnxruntime_web", "OnnxRuntimeWebPredictor", "onnxruntime"),
        "openvino": ("openvino", "OpenVinoPredictor", "openvino"),
        "executorch": ("executorch", "ExecuTorchPredictor", "executorch"),
        "ncnn": ("ncnn", "NcnnPredictor", "ncnn"),
        "litert": ("litert", "LiteRtPredictor", "ai_edge_litert"),
        "mcu": ("litert", "TfliteMicroPredictor", "tflite_micro"),
        "keras": ("keras", "KerasPredictor", "keras"),
    }
)


def why_not_run(target: str, artifact: Path) -> str | None:
    """Return what is missing to execute ``target``, or ``None``."""
    if target == "web":
        from mobilette.engines.onnxruntime_web import find_runtime

        try:
            find_runtime(artifact)
        except InputError as error:
            return str(error)
    if target in ENGINES and find_spec(package := ENGINES[target][2]) is None:
        return f"{package} is missing; install it with pip install 'mobilette[{target}]'"
    return None


def open_engine(artifact: Artifact, *, threads: int = 0) -> ArtifactPredictor:
    """Return the engine that executes ``artifact``; `InputError` if none here can."""
    target = artifact.contract.target
    if target not in ENGINES or not artifact.contract.verifiable:
        raise InputError(
            f"{artifact.path}: nothing here executes {target!r} artifacts, only those of "
            f"{', '.join(ENGINES)}"
        )
    module, name, _ = ENGINES[target]
    kind: type[ArtifactPredictor] = getattr(import_module(f"mobilette.engines.{module}"), name)
    return kind(artifact, threads=threads)
