"""One trained run, and its artifacts: everything that can be asked for an answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobilette.artifact.directory import Artifact
from mobilette.engines.load import ENGINES, load
from mobilette.errors import InputError
from mobilette.exporters.export import TARGETS, export
from mobilette.run.directory import Run
from tests.exporters.small_runs import small_calibration


@pytest.fixture(scope="session", params=["run", *ENGINES])
def model(
    request: pytest.FixtureRequest,
    trained: Run,
    exported: Artifact,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return the run, or an artifact of it, for every engine that is installed."""
    if request.param in ("run", "onnx"):
        return trained.path if request.param == "run" else exported.path
    out, target = tmp_path_factory.mktemp("exports"), TARGETS[request.param]
    precision, calibration = target.precisions[0], small_calibration(16)
    try:
        artifact = export(
            trained, to=target.name, precision=precision, calibration=calibration, out=out
        )
        load(artifact.path)
    except InputError as error:
        if " is missing; " in str(error) or "npm install" in str(error) or "nodejs" in str(error):
            pytest.skip(str(error))
        raise
    return artifact.path
