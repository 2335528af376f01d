"""Runs Keras in a process of its own, once for all workers of a test run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest


def made_by_keras(module: str, factory: pytest.TempPathFactory) -> Path:
    """Return the folder that ``python -m MODULE FOLDER`` filled, on Keras' PyTorch backend.

    The first worker runs it, the others wait.
    """
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, ready = shared / module, shared / f"{module}.ready"
    try:
        folder.mkdir()
    except FileExistsError:
        while not ready.exists():
            time.sleep(0.2)
    else:
        environment = os.environ | {"KERAS_BACKEND": "torch", "KERAS_HOME": str(folder)}
        done = subprocess.run(
            [sys.executable, "-m", module, str(folder)],
            env=environment,
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
        )
        (shared / f"{module}.log").write_text(done.stderr[-3000:])
        written = shared / f"{module}.status"
        written.write_text(str(done.returncode))
        written.rename(ready)
    assert ready.read_text() == "0", (shared / f"{module}.log").read_text()
    return folder
