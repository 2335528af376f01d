"""One trained run, and its artifacts: everything that can be asked for an answer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

from mobilette.artifact.directory import Artifact
from mobilette.engines.load import load
from mobilette.engines.targets import ENGINES
from mobilette.errors import InputError
from mobilette.exporters.export import TARGETS, artifact_folder, export_calibrated
from mobilette.run.directory import Run
from tests.exporters.small_runs import small_calibration


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all workers of pytest share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "engines"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", params=["run", *ENGINES])
def model(
    request: pytest.FixtureRequest,
    trained: Run,
    exported: Artifact,
    exports: Path,
) -> Path:
    """Return the run, or an artifact of it, for every engine that is installed."""
    if request.param in ("run", "onnx"):
        return trained.path if request.param == "run" else exported.path
    target = TARGETS[request.param]
    precision = target.precisions[0]
    path = artifact_folder(trained, target.name, precision, exports)
    # Whichever worker of pytest comes first makes it: some exports take half a minute.
    with FileLock(exports / f"{target.name}.lock"):
        try:
            if not path.exists():
                calibration = small_calibration(16)
                export_calibrated(
                    trained,
                    to=target.name,
                    precision=precision,
                    calibration=calibration,
                    out=exports,
                )
            load(path)
        except InputError as error:
            if any(each in str(error) for each in (" is missing; ", "npm install", "nodejs")):
                pytest.skip(str(error))
            raise
    return path
