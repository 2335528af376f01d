"""Images for a fit, a fit of them, and a latency that need not be measured."""

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


@pytest.fixture
def int8_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export and time no float artifact: int8 is found to be the slower one."""

    def latencies(*_: object, **__: object) -> dict[str, float]:
        return {"int8": 2.0, "fp32": 1.0}

    monkeypatch.setattr("mobilette.workflows.quantize.latencies", latencies)
