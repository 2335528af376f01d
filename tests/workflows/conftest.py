"""Images for a fit, and a fit of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobilette.workflows.fit_record import Fitted
from tests.conftest import write_images
from tests.workflows.fits import fit_small


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("fit") / "set", 30)


@pytest.fixture(scope="session")
def fitted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return fit_small(data, tmp_path_factory.mktemp("fit") / "out")
