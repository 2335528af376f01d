"""A run that is often wrong, its report and the page of that."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mobilette
from mobilette.reporting.audit import write_audit
from mobilette.run.directory import Run
from mobilette.workflows.report_values import Report
from tests.conftest import write_images

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


@pytest.fixture(scope="session")
def full(weak: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """Return the page of a copy of the weak run, with an audit of its set and with shifts."""
    folder = tmp_path_factory.mktemp("full")
    run = Path(shutil.copytree(weak.path, folder / "run"))
    set_of_it = weak.path.parent / "set"
    write_audit(mobilette.audit(set_of_it, run=weak, workers=0), folder / "audit")
    out = folder / "report.html"
    return out, mobilette.report(run, out=out, audit=folder / "audit", shifts=True)


@pytest.fixture(scope="session")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """Return the page of a run whose images have one class, two or none."""
    root = tmp_path_factory.mktemp("several")
    write_images(root, 16)
    labels = {"red": "red;warm", "green": "green", "blue": ""}
    rows = [f"{name}/{n}.png,{some}" for name, some in labels.items() for n in range(16)]
    (root / "list.csv").write_text("\n".join(["path,labels", *rows]))
    return reported(root / "list.csv", root)


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """Return the page of a run that tells 30 classes apart, badly."""
    root = tmp_path_factory.mktemp("many")
    generator = np.random.default_rng(1)
    for number in range(30):
        (root / "set" / f"class {number}").mkdir(parents=True)
        for image in range(10):
            noise = generator.normal(60 + 5 * number, 50, (16, 16, 3)).clip(0, 255)
            name = f"class {number}/{image}.png"
            Image.fromarray(noise.astype(np.uint8)).save(root / "set" / name)
    return reported(root / "set", root)


def reported(data: Path, root: Path) -> tuple[Path, Report]:
    run = mobilette.train(
        data,
        model="mobilenet_v1",
        width_mult=0.25,
        resolution=16,
        overrides={"epochs": 2, "batch_size": 16},
        out=root / "run",
    )
    return root / "report.html", mobilette.report(run, out=root / "report.html")
