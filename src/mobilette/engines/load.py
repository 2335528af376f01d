"""`load`: a run or an artifact, ready to be asked."""

from __future__ import annotations

from pathlib import Path

from mobilette.artifact.directory import is_artifact, open_artifact
from mobilette.engines.predictor import Predictor
from mobilette.errors import InputError
from mobilette.run.directory import is_run, open_run


def load(path: str | Path, *, device: str = "cpu", threads: int = 0) -> Predictor:
    """Return the predictor of a run directory or of an artifact directory.

    Args:
        path: the directory.
        device: where a run is executed, as for `train`; artifacts run on the CPU.
        threads: of the engine that executes an artifact; 0 lets it choose.

    Raises:
        InputError: it is neither, or its files are damaged.
    """
    path = Path(path)
    if is_artifact(path):
        from mobilette.engines.onnxruntime import OnnxRuntimePredictor

        if device not in ("auto", "cpu"):
            raise InputError(f"{path}: an ONNX artifact runs on the cpu, not on device {device!r}")
        return OnnxRuntimePredictor(open_artifact(path), threads=threads)
    if is_run(path):
        from mobilette.engines.pytorch import CheckpointPredictor
        from mobilette.training.environment import choose_device

        return CheckpointPredictor(open_run(path), device=choose_device(device))
    kind = "a folder that is neither" if path.is_dir() else "not there"
    raise InputError(
        f"{path}: is {'a file' if path.is_file() else kind}; the directory of a run or of an "
        "artifact is expected"
    )
