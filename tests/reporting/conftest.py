"""A run that is often wrong, its report and the page of that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mobilette
from mobilette.run.directory import Run
from mobilette.workflows.report_values import Report

HOSTILE = "<img src=x onerror=alert(1)>$x_1$ & \x1b[2J"


@pytest.fixture(scope="session")
def weak(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run that is often wrong: the classes differ little and their names are hostile."""
    root = tmp_path_factory.mktemp("weak")
    generator = np.random.default_rng(0)
    for index, name in enumerate((HOSTILE.replace("/", ""), "plain", "third one")):
        (root / "set" / name).mkdir(parents=True)
        for number in range(30):
            noise = generator.normal(100 + 12 * index, 60, (20, 20, 3)).clip(0, 255)
            Image.fromarray(noise.astype(np.uint8)).save(root / "set" / name / f"{number}.png")
    (root / "set" / "plain" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return mobilette.train(
        root / "set",
        model="mobilenet_v1",
        width_mult=0.25,
        resolution=16,
        overrides={"epochs": 2, "batch_size": 16},
        out=root / "weak run",
    )


@pytest.fixture(scope="session")
def weak_report(weak: Run) -> Report:
    return mobilette.report(weak)


@pytest.fixture(scope="session")
def page(weak: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of the weak run, with its artifact, opened by tests."""
    folder = tmp_path_factory.mktemp("page")
    mobilette.export(weak, out=folder / "exports")
    out = folder / "report.html"
    mobilette.report(weak, out=out, artifacts=[folder / "exports"], verify=True)
    return out
