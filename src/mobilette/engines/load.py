"""`load`: the predictor of a run, an artifact or a model."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from mobilette.arguments import checked
from mobilette.artifact.directory import Artifact, find_artifacts, is_artifact, open_artifact
from mobilette.data.names import refuse_address
from mobilette.engines.artifact import ArtifactPredictor
from mobilette.engines.predictor import Predictor
from mobilette.errors import InputError
from mobilette.folders import restore
from mobilette.limits import THREADS
from mobilette.model.model import Model
from mobilette.run.directory import Run, is_run, open_run

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


@checked
def load(
    model: str | Path | Run | Artifact | Model, *, device: str = "cpu", threads: int = 0
) -> Predictor:
    """Return the predictor of a run, an artifact or a model.

    Args:
        model: a run, an artifact, the directory of either, or a model.
        device: for a run or a model, as in `train`; artifacts run on the CPU.
        threads: engine threads; 0 lets the engine choose.

    Raises:
        InputError: ``model`` is none of these, or its files are damaged.
    """
    if threads != 0:
        THREADS.check("threads", threads)
    if not isinstance(model, Run | Artifact | Model):
        refuse_address(str(model))
        model = _open(Path(model))
    if isinstance(model, Artifact):
        if device not in ("auto", "cpu"):
            raise InputError(f"{model.path}: an artifact runs on the cpu, not on device {device!r}")
        return open_engine(model, threads=threads)
    from mobilette.engines.pytorch import CheckpointPredictor
    from mobilette.training.environment import choose_device

    return CheckpointPredictor(model, device=choose_device(device), threads=threads)


def _open(path: Path) -> Run | Artifact:
    restore(path)
    if is_artifact(path):
        return open_artifact(path)
    if is_run(path):
        return open_run(path)
    kind = "is neither a run nor an artifact" if path.is_dir() else "does not exist"
    if inside := find_artifacts(path):
        kind += f"; {', '.join(each.name for each in inside)} in it can be loaded"
    if path.is_file():
        kind = "is a file; 'mobilette weights import' makes a run of a file of weights"
    raise InputError(f"{path}: {kind}; give the directory of a run or of an artifact")


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
