"""What several rooms' tests share: the shared folder, a small set of images, a trained run."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

from mobilette.artifact.directory import Artifact
from mobilette.folders import scratch
from mobilette.nn.kernels import COMPILERS
from mobilette.run.directory import Run
from mobilette.workflows.export import export
from mobilette.workflows.train import train

# Several workers on the same cores: more threads would only wait for each other, and all the longer
# the more there are. The processes that tests start are told so, too.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
# No test asks the network or depends on what somebody has downloaded; those of downloads say so.
os.environ["MOBILETTE_OFFLINE"] = "1"
# What they print is compared: no shell's wish for colours or a width is theirs.
for variable in [
    "FORCE_COLOR",
    "NO_COLOR",
    "COLUMNS",
    "LINES",
    "TTY_COMPATIBLE",
    "TTY_INTERACTIVE",
]:
    os.environ.pop(variable, None)
# One for all workers, who get it from the process that starts them: kernels are compiled once. Of a
# session that was killed, the next one removes it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    CACHE = ExitStack()
    os.environ["MOBILETTE_CACHE"] = str(CACHE.enter_context(scratch()))
    atexit.register(CACHE.close)

# Shared machines stall: how long an example takes says nothing about the code.
settings.register_profile("mobilette", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mobilette")

# Only for want of one: a kernel that does not compile has to fail its tests.
needs_compiler = pytest.mark.skipif(
    sys.platform != "linux" or not any(map(shutil.which, COMPILERS)), reason="no C++ compiler here"
)

SHARED = Path(__file__).resolve().parents[2] / "shared"
COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("../shared with published numbers and images is not there")
    return SHARED


def write_images(root: Path, count: int, *, size: int = 24, seed: int = 0) -> Path:
    """Write ``count`` noisy images a colour: three classes that a network learns in seconds.

    Those of another ``seed`` are others, with other names.
    """
    generator = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            noise = generator.normal(0, 30, (size, size, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{f'{seed}-' * bool(seed)}{index}.png")
    return root


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a flat set, 40 images each of three colours, in a folder with a difficult name."""
    return write_images(tmp_path_factory.mktemp("set") / "colour 图片", 40)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Run:
    """Return a run that was trained; tests that change it copy it first."""
    return train(
        images,
        model="mobilenet_v1",
        width_mult=0.25,
        resolution=16,
        overrides={"epochs": 12, "batch_size": 16},
        out=tmp_path_factory.mktemp("runs") / "colour run",
    )


@pytest.fixture(scope="session")
def exported(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Return the run's ONNX artifact; tests that change it copy it first."""
    return export(trained, out=tmp_path_factory.mktemp("exports"))


@pytest.fixture
def run_copy(trained: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.path, tmp_path / "run"))


@pytest.fixture
def artifact_copy(exported: Artifact, trained: Run, tmp_path: Path) -> Path:
    """Return a copy of the artifact; its checkpoint is not found from there."""
    return Path(shutil.copytree(exported.path, tmp_path / "copy" / "onnx"))
