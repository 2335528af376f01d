"""`load`: the predictor of a run, an artifact or a model."""

from __future__ import annotations

from pathlib import Path

from mobilette.arguments import checked
from mobilette.artifact.directory import Artifact, find_artifacts, is_artifact, open_artifact
from mobilette.data.names import refuse_address
from mobilette.engines.predictor import Predictor
from mobilette.engines.targets import open_engine
from mobilette.errors import InputError
from mobilette.folders import restore
from mobilette.formats.hub import fetch_model, is_hub_address
from mobilette.limits import THREADS
from mobilette.model.model import Model
from mobilette.run.directory import Run, is_run, open_run


@checked
def load(
    model: str | Path | Run | Artifact | Model, *, device: str = "cpu", threads: int = 0
) -> Predictor:
    """Return the predictor of a run, an artifact or a model.

    Args:
        model: a run, an artifact, the directory of either, a model, or ``hf://OWNER/NAME`` on
            Hugging Face's hub.
        device: for a run or a model, as in `train`; artifacts run on the CPU.
        threads: engine threads; 0 lets the engine choose.

    Raises:
        InputError: ``model`` is none of these, or its files are damaged.
    """
    if threads != 0:
        THREADS.check("threads", threads)
    if not isinstance(model, Run | Artifact | Model):
        if is_hub_address(str(model)):
            model = fetch_model(str(model))
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
