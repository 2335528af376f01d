"""A run whose class is decided by a patch in one of the corners."""

from __future__ import annotations

import pytest

from mobilette.run.directory import Run
from mobilette.workflows.train import train
from tests.verification.corners import SIDE, write_corners


@pytest.fixture(scope="session")
def corners(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("corners")
    return train(
        write_corners(folder / "set", 20),
        model="resnet8",
        resolution=SIDE,
        overrides={"epochs": 20, "batch_size": 16},
        out=folder / "run",
    )
